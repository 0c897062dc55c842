"""Buckets and leases in memory, beyond the contract: byte bounds, floods, honest numbers."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from b1.store.base import Charge
from b1.store.buckets import OVERFLOW_BUCKETS, Buckets
from b1.store.leases import Leases

NOW_US = 1_000_000_000_000


def _take(buckets: Buckets, key: str, now_us: int = NOW_US, *, cost: int = 1) -> bool:
    charge = Charge(key, 60, 60_000, cost, False, "bucket", 5)
    if not buckets.fits(charge, now_us):
        return False
    buckets.take(charge, now_us)
    return True


def test_a_flood_stays_within_the_bound_and_frees_nobody() -> None:
    buckets = Buckets(64 * 1024)
    assert [_take(buckets, "gcra:public:spent") for _ in range(6)] == [True] * 5 + [False]
    for number in range(5000):
        _take(buckets, f"gcra:public:{number}")
    assert buckets.held_bytes <= 64 * 1024 + OVERFLOW_BUCKETS * 260
    assert buckets.overflowed > 1000
    assert not _take(buckets, "gcra:public:spent")


def test_callers_without_room_share_a_bucket_and_never_get_more() -> None:
    buckets = Buckets(0)
    assert [_take(buckets, "gcra:public:one") for _ in range(8)] == [True] * 5 + [False] * 3


def test_full_buckets_are_forgotten_without_a_sweep() -> None:
    buckets = Buckets(2**20)
    for number in range(400):
        _take(buckets, f"gcra:public:{number}")
    for number in range(110):  # each take looks at four old keys
        _take(buckets, f"gcra:public:later-{number % 30}", NOW_US + 10_000_000)
    assert len(buckets) == 30
    buckets.reap(NOW_US + 60_000_000, 100)
    assert (len(buckets), buckets.held_bytes) == (0, 0)


@pytest.mark.parametrize("keys", [2000, 10_923])
def test_accounted_bytes_are_real_bytes(keys: int) -> None:
    buckets = Buckets(2**30)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(keys):
            _take(buckets, f"gcra:public:{number:032}")
        gc.collect()
        real_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.6 * buckets.held_bytes <= real_bytes <= 1.1 * buckets.held_bytes


def test_leases_are_bounded_and_strict_when_full() -> None:
    leases = Leases(16 * 1024)
    charge = Charge("lease:a:1", 10**6, 60_000, 1, False, "lease")
    taken = 0
    while leases.fits(charge, 0):
        leases.take(charge, str(taken), 0)
        taken += 1
        assert taken < 1000
    assert leases.held_bytes <= leases.limit_bytes
    assert leases.held(charge.key, 59_999) == taken
    assert leases.fits(charge, 60_000)
    assert (len(leases), leases.held_bytes) == (0, 0)


def test_leases_of_those_who_were_lost_are_forgotten_without_a_sweep() -> None:
    leases = Leases(2**20)
    for number in range(100):
        leases.take(Charge(f"lease:a:{number}", 1, 60_000, 1, False, "lease"), "x", 0)
    for number in range(30):
        leases.take(Charge("lease:b:1", 99, 60_000, 1, False, "lease"), str(number), 120_000)
    assert len(leases) == 1
