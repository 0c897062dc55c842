"""Who leaves when room is needed: what is used stays, what is scanned goes, and no tenant drives out the others."""

from __future__ import annotations

import bisect
import itertools
import random
from collections import OrderedDict
from collections.abc import Iterable

import pytest

from b1.cache import L1
from b1.clock import ManualClock
from b1.units import KIB, MIB

LIMIT = 2 * MIB


@pytest.fixture
def l1(clock: ManualClock) -> L1:
    return L1(LIMIT, clock)


def load(l1: L1, key: str, size: int = 1000, owner: str = "") -> bool:
    """Read through the map; say whether it was a hit."""
    if l1.get(key) is not None:
        return True
    l1.put(key, b"x" * size, ttl_s=600, versions=(), owner=owner)
    return False


def test_a_scan_leaves_what_is_used_alone(l1: L1) -> None:
    hot = [f"hot{number}" for number in range(500)]
    for _ in range(3):
        for key in hot:
            load(l1, key)
    for number in range(20_000):
        load(l1, f"scan{number}")
    assert [True] * len(hot) == [l1.get(key) is not None for key in hot]


def test_a_key_that_comes_back_soon_after_its_eviction_stays(l1: L1) -> None:
    for number in range(4000):
        load(l1, f"once{number}")
    gone = [key for key in (f"once{number}" for number in range(1500, 3500)) if l1.find(key) is None][-100:]
    for key in gone:
        load(l1, key)
    for number in range(4000):
        load(l1, f"after{number}")
    kept = sum(l1.get(key) is not None for key in gone)
    assert kept > 80  # the memory of evicted keys is lossy


def test_a_refreshed_entry_keeps_its_standing(l1: L1, clock: ManualClock) -> None:
    for _ in range(3):
        load(l1, "hot")
    for number in range(3000):
        load(l1, f"fill{number}")
    clock.advance(601)
    assert not load(l1, "hot")
    for number in range(1900):
        load(l1, f"later{number}")
    assert l1.get("hot") is not None


@pytest.mark.parametrize("size", [200, 2000, 20_000, 100_000])
def test_a_flood_of_keys_plateaus(l1: L1, size: int) -> None:
    most = 0
    for number in range(3 * LIMIT // (size + 250)):
        l1.put(f"flood{number}", b"x" * size, ttl_s=600, versions=())
        most = max(most, l1.held_bytes())
    assert 0.85 * LIMIT < most <= LIMIT


def test_values_that_are_too_large_are_refused_and_displace_nothing(l1: L1) -> None:
    load(l1, "small")
    for number in range(100):
        assert not l1.put(f"large{number}", bytes(LIMIT // 8 + 1), ttl_s=600, versions=())
    assert (1, 100) == (len(l1), l1.snapshot().refused)
    assert l1.get("small") is not None


def test_replacing_one_key_for_ever_takes_the_room_of_few(l1: L1) -> None:
    for _ in range(5000):
        l1.put("k", b"x" * 1000, ttl_s=600, versions=())
    assert l1.held_bytes() < 80 * KIB
    assert 1 == len(l1)


class TestQuota:
    def test_a_tenants_flood_drives_out_no_other_tenants_hot_entries(self, l1: L1) -> None:
        hot = [f"b:{number}" for number in range(400)]
        for _ in range(2):
            for key in hot:
                load(l1, key, owner="b")
        # The flood is read twice, so that it looks hot; the others read theirs less often than it turns the map over.
        for number in range(12_000):
            load(l1, f"a:{number}", owner="a")
            load(l1, f"a:{number}", owner="a")
            if number % 1000 == 0:
                assert all(load(l1, key, owner="b") for key in hot)
        assert l1.evictions["quota"] > 1000

    def test_without_owners_the_same_flood_does(self, l1: L1) -> None:
        hot = [f"b:{number}" for number in range(400)]
        for key in hot * 2:
            load(l1, key)
        for number in range(6000):
            load(l1, f"a:{number}")
            load(l1, f"a:{number}")
        assert sum(l1.get(key) is not None for key in hot) < 100

    def test_a_tenant_alone_may_use_the_whole_map(self, l1: L1) -> None:
        for number in range(5000):
            load(l1, f"a:{number}", owner="a")
        assert l1.held_bytes() > 0.9 * LIMIT
        assert 0 == l1.evictions["quota"]

    def test_shares_follow_what_is_held(self, l1: L1) -> None:
        choose = random.Random(3)
        for step in range(20_000):
            owner = f"o{choose.randrange(8)}"
            key = f"{owner}:{choose.randrange(400)}"
            if step % 97 == 0:
                l1.remove(key)
            load(l1, key, choose.choice([10, 1000, 5000]), owner)
        named = dict(l1.snapshot().tenants)
        assert {f"o{number}" for number in range(8)} == set(named)
        assert sum(named.values()) <= l1.held_bytes()
        l1.reclaim(10 * LIMIT)
        assert () == l1.snapshot().tenants


class Lru:
    """The plain map that this one has to beat, with the same cost of an entry."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._entries: OrderedDict[str, int] = OrderedDict()

    def load(self, key: str, size: int) -> bool:
        if key in self._entries:
            self._entries.move_to_end(key)
            return True
        self._entries[key] = size + 200
        self._held += size + 200
        while self._held > self._limit:
            self._held -= self._entries.popitem(last=False)[1]
        return False


def zipf(skew: float, keys: int, count: int, choose: random.Random) -> list[int]:
    weights = list(itertools.accumulate((number + 1) ** -skew for number in range(keys)))
    return [bisect.bisect(weights, choose.random() * weights[-1]) for _ in range(count)]


def traces() -> Iterable[tuple[str, list[int]]]:
    keys, count, choose = 8000, 25_000, random.Random(11)
    skewed = zipf(0.9, keys, count, choose)
    yield "zipf 0.9", skewed
    yield "zipf 1.0", zipf(1.0, keys, count, choose)
    scanned = itertools.count(keys)
    yield (
        "zipf and scans",
        [one for at, key in enumerate(skewed) for one in ((key, next(scanned)) if at % 4 == 0 else (key,))],
    )
    yield "shifting", [(key + at // 2500 * 100) % keys for at, key in enumerate(skewed)]


@pytest.mark.parametrize(("name", "trace"), [pytest.param(*one, id=one[0]) for one in traces()])
def test_at_equal_bytes_it_hits_more_often_than_a_plain_lru(clock: ManualClock, name: str, trace: list[int]) -> None:
    choose = random.Random(5)
    sizes = [min(20_000, int(choose.lognormvariate(6.8, 1.0))) for _ in range(max(trace) + 1)]
    limit = sum(sizes[:8000]) // 16
    ours, plain = L1(limit, clock), Lru(limit)
    hits = sum(load(ours, f"k{key}", sizes[key]) for key in trace)
    plain_hits = sum(plain.load(f"k{key}", sizes[key]) for key in trace)
    assert hits > plain_hits


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_it_answers_the_newest_value_or_none_and_accounts_for_all(
    clock: ManualClock, seed: int
) -> None:
    choose = random.Random(seed)
    l1 = L1(500_000, clock)
    newest: dict[str, object] = {}
    for step in range(8000):
        key = f"k{choose.randrange(600)}"
        match choose.choices(
            ["put", "object", "get", "remove", "invalidate", "reclaim", "later"], [40, 10, 40, 3, 2, 0.2, 2]
        )[0]:
            case "put":
                value: object = f"{key}-{step}-".encode() * choose.randrange(1, 400)
                put(l1, newest, key, value, None, choose)
            case "object":
                put(l1, newest, key, (key, step), choose.randrange(4000), choose)
            case "get":
                found = l1.get(key)
                if found is not None:
                    assert newest[key] == found.value
            case "remove":
                l1.remove(key)
                assert l1.find(key) is None
            case "invalidate":
                l1.invalidate([f"tag{int(key[1:]) % 20}"])
                assert l1.find(key) is None
            case "reclaim":
                l1.reclaim(int(l1.held_bytes() * choose.random()))
            case _:
                clock.advance(10)
        assert l1.held_bytes() <= 500_000
    audit(l1)
    for key in newest:
        l1.remove(key)
    assert 0 == len(l1)
    assert l1.held_bytes() == l1._items.ghost_bytes


def put(
    l1: L1, newest: dict[str, object], key: str, value: object, held_bytes: int | None, choose: random.Random
) -> None:
    versions = l1.versions_of([f"tag{int(key[1:]) % 20}"])
    owner = choose.choice(["", "a", "b"])
    if l1.put(key, value, held_bytes, ttl_s=choose.randrange(100), versions=versions, owner=owner):
        newest[key] = value


def audit(l1: L1) -> None:
    """Compare what is accounted with what is there."""
    items = l1._items
    segments = list(items.segments.values())
    assert items.live == len(items.index) == sum(segment.live for segment in segments)
    assert items.held_bytes == sum(segment.held_bytes for segment in segments) + items.ghost_bytes
    assert items.small_bytes == sum(one.held_bytes for one in segments if one.queue is items._small)
    assert all(segment.held_bytes >= segment.resident_bytes for segment in segments)
