"""Large values lie packed in the process: nobody who reads them sees it, and one that is damaged was never there."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from b1.cache import L1, Cache
from b1.cache.l1.table import Found
from b1.cache.packing.holding import HoldingMap, HoldOptions, Saving, checked, with_crc
from b1.cache.packing.zstandard import Zstd
from b1.cache.reading.holding import PackedMeta, ValueMap
from b1.cache.reading.values import Meta
from b1.clock import ManualClock
from b1.units import KIB, MIB

DOCUMENT = b"{" + b",".join(b'"line %d":"a text that repeats itself"' % number for number in range(300)) + b"}"
OPTIONS = HoldOptions(ready_reads=4)


class World:
    """A map of values."""

    def __init__(self, limit_bytes: int = 4 * MIB, options: HoldOptions = OPTIONS) -> None:
        self.clock = ManualClock()
        self.l1 = L1(limit_bytes, self.clock)
        self.map = ValueMap(self.l1, self.clock, options)

    def put(self, key: str = "k", value: Any = DOCUMENT, **more: Any) -> bool:
        versions = self.map.versions_of((key,))
        return self.map.put(key, value, **{"ttl_s": 60.0, "versions": versions, **more})

    def value(self, key: str = "k") -> Any:
        found = self.map.find(key)
        return None if found is None else found.value

    def behind(self, key: str = "k") -> Found:
        found = self.l1.find(key)
        assert found is not None
        return found


def test_a_large_value_lies_packed_and_comes_back_as_it_was() -> None:
    world = World()
    assert world.put()
    assert (DOCUMENT, 1) == (world.value(), world.map.holding().packed_entries)
    assert world.l1.held_bytes() < len(DOCUMENT)
    assert len(world.behind().value) < len(DOCUMENT) / 3


@pytest.mark.parametrize(
    "value",
    [DOCUMENT[:1000], os.urandom(20_000), (b"a" * 200_000), b""],
    ids=["small", "cannot be packed", "would hold the loop", "empty"],
)
def test_what_would_not_pay_stays_as_it_is(value: bytes) -> None:
    world = World()
    world.put(value=value)
    assert (value, value, 0) == (world.value(), world.behind().value, world.map.holding().packed_entries)


def test_packing_can_be_switched_off() -> None:
    world = World(options=HoldOptions(enabled=False))
    world.put()
    assert DOCUMENT == world.behind().value


def test_objects_and_kept_exceptions_are_left_alone() -> None:
    world = World()
    error = ValueError("no such row")
    world.put("e", error, held_bytes=512, meta=Meta(0.0, 0.0, 0, 256))
    assert error is world.value("e")


def test_what_stands_beside_a_value_is_kept_with_it() -> None:
    world = World()
    world.put(meta=Meta(50.0, 0.5, 1234, 1))
    meta = world.behind().meta
    expected = Meta(50.0, 0.5, 1234, 1)
    assert [getattr(expected, name) for name in Meta.__slots__] == [getattr(meta, name) for name in Meta.__slots__]


def replaced(world: World, data: bytes, meta: Any = None) -> None:
    found = world.behind()
    versions = world.l1.built_on("k")
    assert versions is not None
    assert world.l1.put("k", data, ttl_s=60.0, versions=versions, meta=meta or found.meta)


def _bit(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def _bomb(data: bytes) -> bytes:
    return with_crc(Zstd().compress(b"\0" * (64 * MIB), 3))


def _checked_gibberish(data: bytes) -> bytes:
    return with_crc(b"no frame at all")


def _unsaid_size(data: bytes) -> bytes:
    return with_crc(Zstd().compress(DOCUMENT + b" ", 3))


@pytest.mark.parametrize(
    "damage",
    [_bit, _bomb, _checked_gibberish, _unsaid_size, lambda data: data[:-7], lambda data: data + b"x", lambda data: b"",
     lambda data: data[:3]],
    ids=["one bit", "bomb", "gibberish", "another size", "truncated", "longer", "nothing", "no checksum"],
)  # fmt: skip
def test_what_is_damaged_is_a_miss_and_a_number(damage: Callable[[bytes], bytes]) -> None:
    world = World()
    world.put()
    replaced(world, damage(world.behind().value))
    assert (None, 1, 0) == (world.value(), world.map.holding().damaged, len(world.l1))


async def test_a_reader_loads_again_what_is_damaged() -> None:
    clock = ManualClock()
    l1 = L1(4 * MIB, clock)
    cache, loads = Cache(l1, clock, limit_bytes=4 * MIB), 0

    async def load() -> list[str]:
        nonlocal loads
        loads += 1
        return ["a text that repeats itself"] * 500

    first = await cache.get_or_load("k", load, ttl_s=60)
    found, versions = l1.find("k"), l1.built_on("k")
    assert found is not None and versions is not None
    l1.put("k", _bit(found.value), ttl_s=60, versions=versions, meta=found.meta)
    assert (first, 2) == (await cache.get_or_load("k", load, ttl_s=60), loads)
    assert (first, 2) == (await cache.get("k"), loads)
    await cache.aclose()


def test_what_is_read_often_is_ready_and_not_unpacked_again() -> None:
    world = World()
    world.put()
    assert {DOCUMENT} == {world.value() for _ in range(20)}
    held = world.map.holding()
    assert (4, 1, len(DOCUMENT)) == (held.unpacked, held.ready_entries, held.ready_bytes)
    assert world.l1.held_bytes() > len(DOCUMENT)  # accounted like any other entry


def test_what_is_read_now_and_then_is_not() -> None:
    world = World()
    world.put(ttl_s=3600.0)
    for _ in range(20):
        world.clock.advance(61.0)
        assert DOCUMENT == world.value()
    assert (20, 0) == (world.map.holding().unpacked, world.map.holding().ready_entries)


@pytest.mark.parametrize("how", ["replaced", "invalidated", "expired", "removed", "cleared", "evicted"])
def test_a_ready_form_ends_with_its_entry(how: str) -> None:
    world, newer = World(), DOCUMENT.replace(b"a text", b"another")
    world.put()
    for _ in range(5):
        world.value()
    assert 1 == world.map.holding().ready_entries
    match how:
        case "replaced":
            world.put(value=newer)
        case "invalidated":
            world.map.invalidate(("k",))
        case "expired":
            world.clock.advance(61.0)
        case "removed":
            world.map.remove("k")
        case "cleared":
            world.map.clear()
        case _:
            world.l1.reclaim(4 * MIB)
    assert (newer if how == "replaced" else None) == world.value()
    assert (0, 0) == (world.map.holding().ready_entries, world.map.holding().ready_bytes)
    assert (how == "replaced") == (len(world.l1) == 1)


def test_an_evicted_ready_form_leaves_the_packed_one() -> None:
    world = World()
    world.put()
    for _ in range(5):
        world.value()
    world.l1.remove("\0k")
    assert DOCUMENT == world.value()
    assert (5, 0) == (world.map.holding().unpacked, world.map.holding().ready_entries)


def test_ready_forms_have_a_part_of_the_map_and_make_room_slowly() -> None:
    world = World(1 * MIB)
    value = DOCUMENT * 4
    for number in range(8):
        world.put(f"k{number}", value)
        for _ in range(6):
            assert value == world.value(f"k{number}")
    held = world.map.holding()
    assert 0 < held.ready_bytes <= MIB // 8
    assert "k0" not in world.map._ready and held.ready_entries < 8
    assert held.ready_entries == len(world.l1) - 8


def test_a_full_map_has_no_ready_forms() -> None:
    world = World(256 * KIB, HoldOptions(ready_reads=1))
    for number in range(400):
        world.put(f"k{number}")
        world.value(f"k{number}")
    assert (0, True) == (world.map.holding().ready_entries, world.map.holding().packed_entries > 20)
    assert world.l1.held_bytes() <= 256 * KIB


def test_the_map_has_room_for_more_of_what_is_packed() -> None:
    counts = []
    for enabled in (False, True):
        world = World(256 * KIB, HoldOptions(enabled=enabled))
        for number in range(400):
            world.put(f"k{number}")
        counts.append(len(world.l1))
    assert counts[1] > 4 * counts[0]


def test_the_numbers_fall_when_entries_leave() -> None:
    world = World()
    for number in range(20):
        world.put(f"k{number}")
    assert 20 == world.map.holding().packed_entries
    world.map.remove("k3")
    world.put("k4", b"small")
    assert 18 == world.map.holding().packed_entries
    world.l1.reclaim(4 * MIB)
    assert (0, 0) == (world.map.holding().packed_entries, world.map.holding().saved_bytes)


def test_what_was_not_stored_is_not_counted() -> None:
    world = World()
    versions = world.map.versions_of(("k",))
    world.map.invalidate(("k",))
    assert (False, 0) == (world.put(versions=versions), world.map.holding().packed_entries)


def test_a_sample_names_entries_and_no_ready_forms() -> None:
    world = World()
    world.put()
    for _ in range(5):
        world.value()
    assert (2, ["k"]) == (len(world.l1), world.map.sample(10))


def test_a_stale_value_is_unpacked_and_not_made_ready() -> None:
    world = World()
    world.put(stale_s=60.0)
    world.clock.advance(61.0)
    found = [world.map.find("k") for _ in range(6)]
    assert {(DOCUMENT, True)} == {(one.value, one.is_stale) for one in found if one is not None}
    assert 0 == world.map.holding().ready_entries


def test_against_a_plain_dictionary_under_random_use() -> None:
    chance, world = random.Random(7), World(options=HoldOptions(ready_reads=2))
    expected: dict[str, bytes] = {}
    for turn in range(4000):
        key, what = f"k{int(chance.paretovariate(1.0)) % 40}", chance.random()
        if what < 0.2:
            expected[key] = DOCUMENT[: chance.randrange(len(DOCUMENT))] + b"%d" % turn
            assert world.put(key, expected[key])
        elif what < 0.25:
            world.map.invalidate((key,))
            expected.pop(key, None)
        elif what < 0.27:
            world.l1.remove(f"\0{key}")
        else:
            assert expected.get(key) == world.value(key)
    held = world.map.holding()
    assert (held.damaged, held.unpacked > 0) == (0, True)


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in ({"saving": 0.0}, {"saving": 1.0}, {"ready_reads": 0}, {"ready_part": 0}):
        with pytest.raises(ValueError, match="makes no sense"):
            HoldOptions(**wrong)


def test_what_is_no_bytes_has_no_checksum() -> None:
    assert (None, b"abc") == (checked("text"), checked(with_crc(b"abc")))


def test_what_a_packed_value_takes_is_counted() -> None:
    tally = World().map.tally
    meta = PackedMeta(None, 5000, Saving(tally, 3000))
    assert 250 <= meta.held_bytes() <= 350
    assert "saved_bytes=3000" in repr(tally)


async def test_bytes_types_and_many_keys_see_nothing_of_it() -> None:
    clock = ManualClock()
    cache = Cache(L1(4 * MIB, clock), clock, limit_bytes=4 * MIB)

    async def load(keys: list[str]) -> dict[str, Any]:
        return {key: DOCUMENT if key == "raw" else {"lines": [key] * 1000} for key in keys}

    for _ in range(3):
        found = await cache.get_many(["raw", "a", "b"], load, ttl_s=60)
        assert found == {"raw": DOCUMENT, "a": {"lines": ["a"] * 1000}, "b": {"lines": ["b"] * 1000}}
    assert len(DOCUMENT) == await cache.get("raw", type=len)
    assert 3 == cache.l1.holding().packed_entries
    await cache.aclose()


def test_all_that_the_map_behind_can_do_is_passed_on() -> None:
    public = {name for name in vars(L1) if not name.startswith("_") and callable(vars(L1)[name])}
    own = {name for kind in (HoldingMap, ValueMap) for name in vars(kind)}
    assert set() == public - own


def test_the_map_says_what_the_one_behind_says() -> None:
    world = World()
    world.put()
    both = world.map, world.l1
    assert 1 == len({len(one) for one in both}) == len({one.held_bytes() for one in both})
    assert 1 == len({one.ceiling_bytes for one in both}) == len({one.changes for one in both})
    assert world.map.snapshot() == world.l1.snapshot()
    assert world.map.maps() == world.l1.maps()
    world.map.set_level(2)
    assert 2 * MIB >= world.l1.ceiling_bytes == world.map.ceiling_bytes
    assert world.map.are_current(world.map.versions_of(("k",)))
    assert world.map.reclaim(4 * MIB) > 0
    assert world.map.get("k") is None
    assert "packed_entries=0" in repr(world.map)
