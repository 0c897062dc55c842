"""What the map does about memory pressure: it stops growing, halves, comes back, and leaves a table that is too big."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from b1.cache import L1
from b1.cache.l1 import ENTRY_OVERHEAD_BYTES, FLOOR_PART
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


def test_a_table_that_is_far_too_big_is_left_in_pieces_and_nothing_is_lost(l1: L1) -> None:
    count = fill(l1, 0.95, size=100)
    l1.reclaim(int(l1.held_bytes() * 0.9))
    left = len(l1)
    kept = [f"k{number}" for number in range(count - left, count)]
    assert repr(l1).startswith(f"<L1 entries={left} ")
    assert all(l1.get(key) is not None for key in random.Random(5).sample(kept, len(kept)))
    assert left == len(l1)


@pytest.mark.parametrize("seed", range(8))
def test_the_map_is_an_ordinary_lru_whatever_table_it_is_in(
    clock: ManualClock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A table is left often, and slowly, so that most steps meet two of them.
    for name, value in (("TABLE_WORTH_IT", 64), ("MOVED_PER_PUT", 1), ("MOVED_PER_SLICE", 16)):
        monkeypatch.setattr(f"b1.cache.l1.{name}", value)
    choose = random.Random(seed)
    l1 = L1(2_000_000, clock)
    plain: OrderedDict[str, int] = OrderedDict()
    for step in range(12_000):
        key = f"k{choose.randrange(8000)}"
        match choose.choices(["put", "get", "remove", "reclaim"], [60, 35, 5, 0.05])[0]:
            case "put":
                assert l1.put(key, step, 0, ttl_s=600, versions=())
                plain.pop(key, None)
                plain[key] = step
                while sum_of(plain) > 2_000_000:
                    plain.popitem(last=False)
            case "get":
                entry = l1.get(key)
                assert plain.get(key) == (entry.value if entry is not None else None)
                if entry is not None:
                    plain.move_to_end(key)
            case "remove":
                l1.remove(key)
                plain.pop(key, None)
            case _:
                given = l1.reclaim(int(l1.held_bytes() * choose.uniform(0.5, 0.97)))
                while plain and given > 0:
                    given -= cost(plain.popitem(last=False)[0])
        assert len(plain) == len(l1)
    assert sum(cost(key) for key in plain) == l1.held_bytes()


def cost(key: str) -> int:
    return ENTRY_OVERHEAD_BYTES + len(key) + 49


def sum_of(plain: OrderedDict[str, int]) -> int:
    # Keys have 2 to 5 characters; summing them all at each step would be the slow half of the test.
    return sum(cost(key) for key in plain) if len(plain) * cost("kkkkk") > 2_000_000 else 0
