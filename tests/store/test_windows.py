"""Many windows within a byte bound: what a flood can and cannot do."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from b1.store.base import Charge
from b1.store.windows import OVERFLOW_WINDOWS, Windows

NOW_MS = 1_750_032_000_000
MINUTE_MS = 60_000


def _spend(windows: Windows, key: str, quota: int = 5, now_ms: int = NOW_MS, cost: int = 1) -> bool:
    return windows.spend([Charge(key, quota, MINUTE_MS, cost)], now_ms, commit=True)[0]


def _flood(windows: Windows, count: int, policy: str = "limit:public", now_ms: int = NOW_MS) -> None:
    for number in range(count):
        _spend(windows, f"{policy}:{number:032x}", now_ms=now_ms)


def test_a_flood_of_new_keys_does_not_free_an_exhausted_caller() -> None:
    windows = Windows(256 * 1024)
    answers = [_spend(windows, "limit:public:attacker") for _ in range(6)]
    _flood(windows, 20_000)
    assert answers == [True] * 5 + [False]
    assert not _spend(windows, "limit:public:attacker")


@pytest.mark.parametrize("limit_bytes", [0, 1000, 64 * 1024, 1024 * 1024])
def test_a_flood_stays_within_the_bound(limit_bytes: int) -> None:
    windows = Windows(limit_bytes)
    for policy in ("limit:a", "limit:b", "limit:c", "limit:d", "limit:e"):
        _flood(windows, 3000, policy)
    overflow_bytes = 5 * OVERFLOW_WINDOWS * 400  # the overflow windows themselves come on top: a fixed number
    assert windows.held_bytes <= limit_bytes + overflow_bytes


def test_growing_windows_stay_within_the_bound() -> None:
    windows = Windows(256 * 1024)
    for second in range(60):
        _flood(windows, 600, now_ms=NOW_MS + second * 1000)
        _flood(windows, 600, "limit:other", now_ms=NOW_MS + second * 1000)
    assert windows.held_bytes <= 256 * 1024 + 2 * OVERFLOW_WINDOWS * 1300


def test_callers_without_room_share_a_quota_and_never_get_more() -> None:
    windows = Windows(0)
    answers = [_spend(windows, "limit:public:one") for _ in range(10)]
    assert answers == [True] * 5 + [False] * 5
    assert windows.overflowed == 5


def test_a_flood_on_one_policy_leaves_room_for_the_others() -> None:
    windows = Windows(1024 * 1024)
    _flood(windows, 20_000)
    before = windows.overflowed
    answers = [_spend(windows, f"limit:entities:{number}", quota=1) for number in range(500)]
    assert all(answers)
    assert windows.overflowed == before


def test_a_caller_who_spent_in_an_overflow_window_does_not_spend_again_in_its_own() -> None:
    windows = Windows(0)
    for _ in range(5):
        assert _spend(windows, "limit:public:one")
    windows.shelf._new_key_limit = windows.shelf._policy_limit = 10**6  # as when the flood's windows have run out
    assert not _spend(windows, "limit:public:one", now_ms=NOW_MS + 1000)
    assert _spend(windows, "limit:public:one", now_ms=NOW_MS + 61_000)


def test_windows_that_ran_out_are_forgotten_without_a_sweep() -> None:
    windows = Windows(2**20)
    _flood(windows, 400)
    later_ms = NOW_MS + 62_000
    for number in range(110):  # each spend looks at four old keys
        _spend(windows, f"limit:public:later-{number % 3}", quota=1000, now_ms=later_ms)
    assert len(windows) == 3


def test_a_window_in_use_is_kept_past_its_first_term() -> None:
    windows = Windows(2**20)
    for second in range(0, 300, 50):
        assert _spend(windows, "limit:public:one", quota=2, now_ms=NOW_MS + second * 1000)
    assert len(windows) == 1
    assert not _spend(windows, "limit:public:one", quota=2, now_ms=NOW_MS + 250_000 + 1, cost=2)


def test_after_a_flood_everything_is_given_back() -> None:
    windows = Windows(512 * 1024)
    _flood(windows, 1000, "limit:a")
    windows.reap(NOW_MS + 200_000, 10_000)
    assert (len(windows), windows.held_bytes) == (0, 0)


def test_refused_and_free_requests_hold_nothing() -> None:
    windows = Windows(2**20)
    for number in range(100):
        _spend(windows, f"limit:a:{number}", quota=5, cost=6)
        _spend(windows, f"limit:a:{number}", quota=5, cost=0)
    assert len(windows) == 0


@pytest.mark.parametrize(("keys", "counters"), [(2000, 1), (2000, 5), (500, 61), (10_923, 1)])
def test_accounted_bytes_are_real_bytes(keys: int, counters: int) -> None:
    windows = Windows(2**30)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for counter in range(counters):
            _flood(windows, keys, now_ms=NOW_MS + counter * 1000)
        gc.collect()
        real_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.7 * windows.held_bytes <= real_bytes <= 1.1 * windows.held_bytes
