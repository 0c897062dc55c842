"""The map against a plain dictionary: whatever happens, nothing is lost, nothing comes back, nothing is mixed up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from b1.cache import L1
from b1.cache.l1.index import PAGE_BYTES, SPLIT_AT
from b1.clock import ManualClock
from b1.units import MIB

FOR_EVER_S = 1e9


class Crowded(str):
    """A key that shares its hash, and so its digest, with every 50th other."""

    __slots__ = ()

    def __hash__(self) -> int:
        return int(self[1:]) % 50 * 1_000_003


class Neighbouring(str):
    """A key whose digest differs from others only in the bits that do not choose the page."""

    __slots__ = ()

    def __hash__(self) -> int:
        return int(self[1:]) % 450


class Model:
    """A dictionary that does the same. Without eviction both must agree; after one, what is there must be the newest.

    Values tell which key and which write they are of; some are objects, some have a `meta`.
    """

    def __init__(self, l1: L1, clock: ManualClock, name: Callable[[str], str], seed: int) -> None:
        self.l1, self.clock, self.name = l1, clock, name
        self.chance = random.Random(seed)
        self.newest: dict[int, tuple[object, object, float]] = {}
        self.writes = 0

    def key(self, number: int) -> str:
        return self.name(f"k{number}")

    def put(self, number: int) -> None:
        self.writes += 1
        kind = self.chance.random()
        value: object = f"{number}:{self.writes}".encode() * self.chance.randrange(1, 5)
        if kind < 0.03:
            value = (number, self.writes)
        meta = [number] if kind > 0.95 else None
        ttl_s = self.chance.choice([FOR_EVER_S, FOR_EVER_S, 1000.0])
        assert self.l1.put(self.key(number), value, 100, ttl_s=ttl_s, versions=(), meta=meta)
        self.newest[number] = (value, meta, self.clock.monotonic() + ttl_s)

    def remove(self, number: int) -> None:
        self.l1.remove(self.key(number))
        self.newest.pop(number, None)

    def has_right(self, number: int, *, evicted: bool = False) -> bool:
        found, expected = self.l1.find(self.key(number)), self.newest.get(number)
        if expected is not None and expected[2] <= self.clock.monotonic():
            expected = None
            del self.newest[number]
        if found is None:
            return evicted or expected is None
        return expected is not None and (found.value, found.meta) == expected[:2]

    def step(self, number: int) -> None:
        if self.chance.random() < 0.7:
            self.put(number)
        else:
            self.remove(number)


def audit(l1: L1) -> None:
    """Compare what is accounted with what is there."""
    items = l1._items
    assert len(l1) == len(items.index) == sum(map(len, items.index.places(0)))
    assert len(l1) == sum(one.live for one in items.segments.values())
    assert l1.held_bytes() == sum(one.held_bytes for one in items.segments.values()) + items.ghost_bytes


def test_forty_thousand_keys_come_stay_expire_and_go_as_in_a_dictionary(clock: ManualClock) -> None:
    l1, count = L1(128 * MIB, clock), 40_000
    model = Model(l1, clock, str, 1)
    for number in range(count):
        model.put(number)
    for _ in range(8_000):
        model.step(model.chance.randrange(count))
    clock.advance(1001)  # a third of them has expired
    assert all(model.has_right(number) for number in range(count))
    assert len(model.newest) == len(l1)
    audit(l1)

    full_bytes = l1._items.index.table_bytes
    l1.reclaim(l1.held_bytes() * 3 // 4)
    assert all(model.has_right(number, evicted=True) for number in range(0, count, 7))
    audit(l1)
    assert l1._items.index.table_bytes < full_bytes * 0.6
    assert l1._items.index.table_bytes <= 5 * PAGE_BYTES * (len(l1) // SPLIT_AT + 1)

    for number in range(count - 8_000, count):
        model.put(number)
    assert all(model.has_right(number) for number in range(count - 8_000, count))
    l1.reclaim(1 << 40)
    assert (0, 0, 0) == (len(l1), l1.held_bytes(), l1._items.index.table_bytes)


@pytest.mark.parametrize("name", [str, Crowded, Neighbouring])
@pytest.mark.parametrize("seed", range(2))
def test_keys_whose_digests_collide_are_told_apart(clock: ManualClock, name: Callable[[str], str], seed: int) -> None:
    count = 450
    l1 = L1(16 * MIB, clock)
    model = Model(l1, clock, name, seed)
    for step in range(6000):
        number = model.chance.randrange(count)
        model.step(number)
        if step % 500 == 499:
            clock.advance(300)
        assert model.has_right(number)
        assert model.has_right(model.chance.randrange(count))
    assert all(model.has_right(number) for number in range(count))
    assert len(model.newest) == len(l1)
    audit(l1)
    l1.reclaim(l1.held_bytes() // 2)
    assert all(model.has_right(number, evicted=True) for number in range(count))
    for number in range(count):
        model.remove(number)
    assert (0, 0, 0) == (len(l1), l1._items.index.table_bytes, l1.held_bytes())


@pytest.mark.parametrize("name", [str, Crowded, Neighbouring])
def test_a_full_map_under_collisions_answers_the_newest_or_nothing(
    clock: ManualClock, name: Callable[[str], str]
) -> None:
    l1 = L1(60_000, clock)
    model = Model(l1, clock, name, 5)
    for _ in range(8000):
        model.step(model.chance.randrange(2000))
        assert model.has_right(model.chance.randrange(2000), evicted=True)
        assert l1.held_bytes() <= 60_000
    assert l1.evictions["size"] > 1000
    audit(l1)


def test_a_flood_of_keys_with_one_hash_is_bounded_and_harms_no_other(clock: ManualClock) -> None:
    class Same(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 12_345

    l1 = L1(16 * MIB, clock)
    l1.put("other", b"other", ttl_s=60, versions=())
    kept = [l1.put(Same(f"same{number}"), b"%d" % number, ttl_s=60, versions=()) for number in range(600)]
    assert 0 < sum(not one for one in kept) == l1.snapshot().refused <= 121
    found = [l1.find(Same(f"same{number}")) for number in range(600)]
    assert [b"%d" % number if kept[number] else None for number in range(600)] == [one and one.value for one in found]
    assert l1.find("other") is not None
    assert l1.put("new", b"new", ttl_s=60, versions=())
    audit(l1)
