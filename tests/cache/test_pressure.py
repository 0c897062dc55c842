"""What the map does about memory pressure: it stops growing, halves, comes back, and gives its pages to the system."""

from __future__ import annotations

import pytest

from b1.cache import L1
from b1.cache.l1.table import FLOOR_PART
from b1.clock import ManualClock

LIMIT = 16_000_000
NORMAL, ELEVATED, HIGH, CRITICAL, EMERGENCY = 0, 1, 2, 4, 5


@pytest.fixture
def l1(clock: ManualClock) -> L1:
    return L1(LIMIT, clock)


def put(l1: L1, key: str, size: int = 1000, *, ttl_s: float = 600) -> bool:
    return l1.put(key, key, size, ttl_s=ttl_s, versions=())


def fill(l1: L1, share: float, *, size: int = 1000, prefix: str = "k") -> int:
    """Put entries until a share of the limit is held; return how many."""
    number = 0
    while l1.held_bytes() < LIMIT * share:
        put(l1, f"{prefix}{number}", size)
        number += 1
    return number


def test_from_elevated_on_new_entries_only_displace_old_ones(l1: L1) -> None:
    fill(l1, 0.5)
    held = l1.held_bytes()
    l1.set_level(ELEVATED)
    for number in range(5000):
        assert put(l1, f"new{number}")
        assert l1.held_bytes() <= held
    assert l1.get("new4999") is not None
    assert l1.get("k0") is None


def test_at_high_half_of_the_limit_is_the_most(l1: L1) -> None:
    fill(l1, 0.9)
    l1.set_level(HIGH)
    assert LIMIT // 2 == l1.ceiling_bytes


def test_a_ceiling_that_fell_far_holds_up_no_single_put(l1: L1) -> None:
    fill(l1, 0.9)
    l1.set_level(HIGH)
    before, count = l1.held_bytes(), len(l1)
    put(l1, "new")
    assert count - 3 <= len(l1) <= count
    assert l1.held_bytes() < before
    for number in range(count):
        put(l1, f"new{number}")
    assert l1.held_bytes() <= LIMIT // 2


def test_what_a_reclaim_took_does_not_grow_back_before_the_level_is_normal(l1: L1) -> None:
    fill(l1, 0.9)
    l1.set_level(HIGH)
    l1.reclaim(LIMIT // 2)
    left = l1.held_bytes()
    l1.set_level(ELEVATED)
    fill_count = 20_000
    for number in range(fill_count):
        put(l1, f"new{number}")
    assert l1.held_bytes() <= left
    l1.set_level(NORMAL)
    assert LIMIT == l1.ceiling_bytes
    assert fill(l1, 0.95, prefix="again") > 0
    assert l1.held_bytes() >= LIMIT * 0.95


def test_a_worker_that_starts_on_a_full_box_may_cache_a_little(l1: L1) -> None:
    l1.set_level(ELEVATED)
    for number in range(5000):
        put(l1, f"k{number}")
    assert LIMIT // FLOOR_PART == l1.ceiling_bytes
    assert l1.held_bytes() > LIMIT // FLOOR_PART * 0.9


@pytest.mark.parametrize("level", [CRITICAL, EMERGENCY])
def test_when_everything_was_dropped_at_the_last_levels_nothing_comes_back(l1: L1, level: int) -> None:
    fill(l1, 0.5)
    l1.set_level(level)
    l1.reclaim(LIMIT)
    assert (0, 0) == (l1.held_bytes(), l1.ceiling_bytes)
    assert not put(l1, "new")
    l1.set_level(HIGH)
    assert put(l1, "new")


def test_a_reclaim_that_somebody_asked_for_at_the_normal_level_lowers_nothing(l1: L1) -> None:
    fill(l1, 0.9)
    l1.reclaim(LIMIT)
    assert LIMIT == l1.ceiling_bytes


def test_flapping_levels_give_the_same_as_the_last_one(l1: L1) -> None:
    fill(l1, 0.9)
    for _ in range(100):
        for level in (ELEVATED, HIGH, NORMAL):
            l1.set_level(level)
    assert (LIMIT, True) == (l1.ceiling_bytes, l1.held_bytes() >= LIMIT * 0.9)


def values(l1: L1, share: float, *, size: int = 2000) -> list[str]:
    """Put bytes until a share of the limit is held; return the keys."""
    keys: list[str] = []
    while l1.held_bytes() < LIMIT * share:
        keys.append(f"v{len(keys)}")
        l1.put(keys[-1], b"x" * size, ttl_s=600, versions=())
    return keys


def test_what_a_reclaim_gives_up_are_pages(l1: L1) -> None:
    values(l1, 0.9)
    before = l1.snapshot()
    given = l1.reclaim(LIMIT // 2)
    after = l1.snapshot()
    assert given >= LIMIT // 2
    assert before.held_bytes - given == after.held_bytes
    returned = after.returned_bytes - before.returned_bytes
    assert before.resident_bytes - returned == after.resident_bytes
    assert returned >= 0.85 * given  # the rest are keys and their places


def test_a_reclaim_spares_what_was_used(l1: L1) -> None:
    keys = values(l1, 0.9)
    used = keys[:: len(keys) // 100]
    assert all(l1.get(key) is not None for key in used)
    for _ in range(40):
        l1.reclaim(LIMIT // 80)
    assert [True] * len(used) == [l1.get(key) is not None for key in used]


def test_from_critical_on_a_reclaim_spares_nothing(l1: L1) -> None:
    keys = values(l1, 0.9)
    for key in keys[:100]:
        l1.get(key)
    l1.set_level(CRITICAL)
    l1.reclaim(LIMIT // 2)
    assert [None] * 100 == [l1.get(key) for key in keys[:100]]


def test_when_everything_is_reclaimed_nothing_at_all_is_left(l1: L1) -> None:
    values(l1, 0.95)
    for number in range(2000):  # over the limit: some are evicted, and remembered
        put(l1, f"k{number}")
    l1.reclaim(10 * LIMIT)
    seen = l1.snapshot()
    assert (0, 0, 0, 0, 0) == (len(l1), l1.held_bytes(), seen.resident_bytes, seen.segments, seen.small_bytes)


def test_tables_shrink_after_a_large_reclaim(l1: L1) -> None:
    fill(l1, 0.95, size=100)
    before = l1._items.index.table_bytes
    for _ in range(20):
        l1.reclaim(int(l1.held_bytes() * 0.2))
    for number in range(200):
        put(l1, f"new{number}")
    assert l1._items.index.table_bytes < before // 8
