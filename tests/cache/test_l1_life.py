"""A long random life of the map, with all that an entry can have: what is found is right, what is accounted is there."""

from __future__ import annotations

import random
from mmap import PAGESIZE

import pytest

from b1.cache import L1
from b1.cache.l1.index import ENTRY_BYTES
from b1.cache.l1.layout import GONE
from b1.cache.l1.policy import cost
from b1.clock import ManualClock
from b1.types import Versions
from b1.units import KIB
from tests.cache.test_l1_model import audit

LIMIT_BYTES = 600 * KIB
KEYS = ["k", "ключ", "鍵" * 40, "\ud800", "\ud800\udc00", "\U00010000", "a\x00b", "a" * 5000, "", "\u00e9", "e\u0301"]
SIZES = (0, 1, 7, 8, 9, 200, PAGESIZE - 49, PAGESIZE - 48, PAGESIZE, PAGESIZE + 1, 9300, 16 * KIB, 50_000)


def audit_whole(l1: L1) -> None:
    """Count everything again, from what lies in the segments."""
    audit(l1)
    items = l1._items
    tenants: dict[int, int] = {}
    places = [place for page in items.index.places(0) for place in page]
    assert len(places) == len(set(places))
    beside: dict[int, int] = {}
    for place in places:
        segment, at = items.locate(place)
        header = segment.header(at)
        assert header.state != GONE and segment.head <= at < segment.end
        assert items.index.get(header.digest, items.name_at(place)) == place
        tenants[header.tenant] = tenants.get(header.tenant, 0) + cost(header)
        beside[segment.number] = beside.get(segment.number, 0) + header.beside_bytes + ENTRY_BYTES
    for number, segment in items.segments.items():
        assert segment.held_bytes == segment.resident_bytes + beside[number]
        assert len(segment.objects) + len(segment.metas) <= 2 * segment.live
    for queue in (items._small, items._main):
        assert queue.held_bytes == sum(segment.held_bytes for segment in queue.segments)
        assert all(segment.queue is queue for segment in queue.segments)
    assert {number: held for number, held in tenants.items() if number} == {
        tenant.number: tenant.held_bytes for tenant in items.tenants._by_name.values()
    }


class Life:
    """Does anything at all, and knows what each key was put with last."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = ManualClock()
        self.l1 = L1(LIMIT_BYTES, self.clock)
        self.newest: dict[str, tuple[object, object, float, float, Versions | tuple[()]]] = {}

    def key(self) -> str:
        if self.chance.random() < 0.1:
            return self.chance.choice(KEYS)
        return f"k{self.chance.randrange(1500)}"

    def put(self) -> None:
        chance, key = self.chance, self.key()
        size = chance.choice(SIZES) if chance.random() < 0.2 else chance.randrange(120)
        value: object = chance.randbytes(size)
        held_bytes = None
        if chance.random() < 0.1:
            value, held_bytes = [key, size], chance.choice([None, 300, 20_000])
        meta = (key, size) if chance.random() < 0.1 else None
        tags = [f"t{chance.randrange(40)}" for _ in range(chance.randrange(4))]
        versions = self.l1.versions_of(tags) if tags else ()
        if tags and chance.random() < 0.1:
            self.l1.invalidate(tags[:1])
        ttl_s, stale_s = chance.choice([5.0, 50.0, 5e6]), chance.choice([0.0, 20.0])
        owner = chance.choice(["", "one", "two", f"organisation{chance.randrange(30)}"])
        is_kept = self.l1.put(
            key, value, held_bytes, ttl_s=ttl_s, versions=versions, stale_s=stale_s, meta=meta, owner=owner
        )
        now_s = self.clock.monotonic()
        if is_kept:
            self.newest[key] = (value, meta, now_s + ttl_s, now_s + ttl_s + stale_s, versions)
        elif self.l1.are_current(versions):
            self.newest.pop(key, None)  # too large: what was there before may still be there, or not
            self.l1.remove(key)

    def check(self, key: str) -> None:
        found, now_s = self.l1.find(key), self.clock.monotonic()
        if found is None:
            return
        value, meta, fresh_until_s, until_s, versions = self.newest[key]
        assert (value, meta, fresh_until_s) == (found.value, found.meta, found.expires_s)
        assert now_s < until_s
        assert found.is_stale == (now_s >= fresh_until_s)
        assert self.l1.are_current(versions)

    def step(self) -> None:
        chance, l1 = self.chance, self.l1
        match chance.randrange(40):
            case 0:
                l1.invalidate([f"t{chance.randrange(40)}"])
            case 1:
                l1.remove(key := self.key())
                self.newest.pop(key, None)
            case 2:
                self.clock.advance(chance.random() * 4)
            case 3:
                for key in l1.sample(chance.randrange(20)):
                    self.check(key)
            case 4:
                l1.peek(self.key(), marks=True)
            case 5 if chance.random() < 0.3:
                l1.reclaim(chance.randrange(1, 40_000))
            case 6 if chance.random() < 0.05:
                l1.set_level(chance.randrange(6))
            case 7 if chance.random() < 0.02:
                l1.clear()
                assert (0, 0) == (len(l1), l1.held_bytes())
            case number if number < 22:
                self.put()
                assert l1.held_bytes() <= max(LIMIT_BYTES, l1.ceiling_bytes)
            case _:
                self.check(self.key())


@pytest.mark.parametrize("seed", range(4))
def test_after_anything_at_all_what_is_found_is_right_and_what_is_accounted_is_there(seed: int) -> None:
    life = Life(seed)
    for number in range(4000):
        life.step()
        if number % 200 == 0:
            audit_whole(life.l1)
    audit_whole(life.l1)
    assert sum(life.l1.evictions.values()) > 100
    life.l1.reclaim(1 << 40)
    assert (0, 0, 0) == (len(life.l1), life.l1.held_bytes(), life.l1._items.index.table_bytes)


def test_what_was_being_loaded_when_all_was_invalidated_is_not_kept(clock: ManualClock) -> None:
    l1 = L1(LIMIT_BYTES, clock)
    versions = l1.versions_of(("t",))
    l1.clear()
    assert not l1.put("k", b"older", ttl_s=60, versions=versions)
    assert l1.put("k", b"newer", ttl_s=60, versions=l1.versions_of(("t",)))
