"""Claims in memory, beyond the contract: the byte bound, forgetting, and records of other stores."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from b1.errors import StoreUnavailable
from b1.store.base import GRACE_MS, ClaimState
from b1.store.claims import ENTRY_BYTES, Claims

NOW_MS = 1_000_000


def _claim(claims: Claims, key: str, now_ms: int = NOW_MS, lease_ms: int = 1000) -> int:
    claim = claims.claim(key, b"f", lease_ms=lease_ms, now_ms=now_ms, wall_us=now_ms * 1000)
    assert claim.state is ClaimState.CLAIMED
    return claim.fence


def test_a_claim_that_does_not_fit_is_refused_and_the_others_stay() -> None:
    claims = Claims(10_000)
    fitting = claims.limit_bytes // (ENTRY_BYTES + len("k00") + len(b"f"))
    for number in range(fitting):
        _claim(claims, f"k{number:02}")
    with pytest.raises(StoreUnavailable, match="records hold"):
        _claim(claims, "k99")
    assert 0 < claims.held_bytes <= 10_000
    assert claims.is_live("k00", NOW_MS)


def test_a_record_that_does_not_fit_is_refused_and_the_claim_stays() -> None:
    claims = Claims(10_000)
    fence = _claim(claims, "k")
    with pytest.raises(StoreUnavailable):
        claims.finish("k", fence, b"x" * 10_000, ttl_ms=1000, now_ms=NOW_MS)
    assert claims.renew("k", fence, lease_ms=1000, now_ms=NOW_MS)


def test_room_comes_back_when_claims_and_records_end() -> None:
    claims = Claims(10_000)
    for number in range(10):
        fence = _claim(claims, f"k{number}")
        claims.finish(f"k{number}", fence, b"x" * 100, ttl_ms=5000, now_ms=NOW_MS)
    for number in range(10):
        _claim(claims, f"later{number}", now_ms=NOW_MS + 200_000)
    claims.reap(NOW_MS + 10**6, 1000)
    assert (len(claims), claims.held_bytes) == (0, 0)


def test_a_dead_owners_claim_is_forgotten_after_lease_and_grace() -> None:
    claims = Claims(10_000)
    fence = _claim(claims, "k")
    late_ms = NOW_MS + 1000 + GRACE_MS
    assert not claims.finish("k", fence, b"r", ttl_ms=1000, now_ms=late_ms)
    claims.reap(late_ms + 2000, 10)
    assert len(claims) == 0


def test_a_key_that_is_claimed_and_released_again_and_again_costs_no_more() -> None:
    claims = Claims(10_000)
    for _ in range(1000):
        claims.release("k", _claim(claims, "k"), now_ms=NOW_MS)
    assert len(claims) == 1
    claims.reap(NOW_MS + 10**6, 2)
    assert len(claims) == 0


def test_a_mirror_decides_nothing_until_it_is_finished_here() -> None:
    claims = Claims(10_000)
    claims.mirror("k", b"f", 7, lease_ms=1000, now_ms=NOW_MS)
    assert not claims.is_live("k", NOW_MS)
    assert not claims.finish_mirror("k", 8, b"record", ttl_ms=5000, now_ms=NOW_MS)
    assert claims.finish_mirror("k", 7, b"record", ttl_ms=5000, now_ms=NOW_MS)
    assert claims.is_live("k", NOW_MS)
    assert claims.kept("k", NOW_MS + 1000) == ("k", b"f", 7, b"record", 4000)
    claims.handed_over("k", NOW_MS)
    assert (claims.is_live("k", NOW_MS), claims.owed) == (False, {})


def test_mirrors_make_room_for_claims_and_never_take_more_than_their_share() -> None:
    claims = Claims(10_000)
    for number in range(100):
        claims.mirror(f"mirror{number}", b"f", number, lease_ms=1000, now_ms=NOW_MS)
    assert 0 < claims.held_bytes <= 2500
    for number in range(100):
        claims.mirror_finish(f"mirror{number}", number, bytes(600), ttl_ms=1000, now_ms=NOW_MS)
    assert 0 < claims.held_bytes <= 2500
    for number in range(20):
        _claim(claims, f"k{number}")
    assert not any(claims.is_live(f"mirror{number}", NOW_MS) for number in range(100))
    claims.reap(NOW_MS + 10**6, 10_000)
    assert (len(claims), claims.held_bytes) == (0, 0)


def test_fences_grow_when_the_wall_clock_does_not() -> None:
    claims = Claims(10_000)
    first = claims.claim("a", b"f", lease_ms=1, now_ms=NOW_MS, wall_us=5000).fence
    second = claims.claim("b", b"f", lease_ms=1, now_ms=NOW_MS, wall_us=4000).fence
    assert second > first


def test_accounted_bytes_are_real_bytes() -> None:
    claims = Claims(2**30)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(3000):
            key = f"idempotency:1:{number:032x}"
            claims.finish(key, _claim(claims, key), bytes(200), ttl_ms=10**8, now_ms=NOW_MS)
        gc.collect()
        real_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.6 * claims.held_bytes <= real_bytes <= 1.1 * claims.held_bytes
