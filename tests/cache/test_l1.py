"""The map is bounded in bytes, and what was invalidated is never served."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence

import pytest

from b1.cache import L1
from b1.cache.l1.items import MAPPED_BY_ALLOCATOR_BYTES
from b1.clock import ManualClock
from b1.store.versions import Versions as Source
from b1.units import MIB


@pytest.fixture
def l1(clock: ManualClock) -> L1:
    return L1(100_000, clock)


def put(l1: L1, key: str, *tags: str, size: int = 100, ttl_s: float = 60) -> bool:
    return l1.put(key, key, size, ttl_s=ttl_s, versions=l1.versions_of(tags))


def test_a_value_is_served_until_it_expires(l1: L1, clock: ManualClock) -> None:
    put(l1, "k", ttl_s=60)
    clock.advance(59.9)
    assert l1.get("k") is not None
    clock.advance(0.2)
    assert l1.get("k") is None
    assert l1.held_bytes() == 0


def test_the_bytes_stay_below_the_limit(l1: L1) -> None:
    for number in range(1000):
        put(l1, f"k{number}", size=1000)
    assert l1.held_bytes() <= 100_000
    assert l1.get("k999") is not None
    assert l1.get("k0") is None


def test_what_was_read_lately_stays(l1: L1) -> None:
    put(l1, "hot", size=1000)
    for number in range(300):
        put(l1, f"k{number}", size=1000)
        assert l1.get("hot") is not None


def test_a_value_larger_than_an_eighth_is_not_stored(l1: L1) -> None:
    assert not put(l1, "big", size=20_000)
    assert len(l1) == 0


def test_a_tag_makes_its_entries_stale_and_no_others(l1: L1) -> None:
    put(l1, "a", "org:1")
    put(l1, "b", "org:2")
    l1.invalidate(["org:1"])
    assert (l1.get("a"), getattr(l1.get("b"), "value", None)) == (None, "b")


def test_an_invalidation_during_the_load_keeps_the_value_out(l1: L1) -> None:
    versions = l1.versions_of(["org:1"])
    l1.invalidate(["org:1"])
    assert not l1.put("k", "old", 100, ttl_s=60, versions=versions)
    assert l1.get("k") is None


def test_replacing_an_entry_counts_it_once(l1: L1) -> None:
    put(l1, "k", size=5000)
    once = l1.held_bytes()
    put(l1, "k", size=5000)
    assert once == l1.held_bytes()


def test_reclaim_gives_up_at_least_what_was_asked(l1: L1) -> None:
    for number in range(50):
        put(l1, f"k{number}", size=1000)
    before = l1.held_bytes()
    given = l1.reclaim(20_000)
    assert given >= 20_000
    assert before - given == l1.held_bytes()
    assert l1.reclaim(10**9) == before - given


def test_bytes_come_back_as_they_were_and_alone(l1: L1) -> None:
    value = bytes(range(256)) * 8
    assert l1.put("k", value, ttl_s=60, versions=())
    found = l1.get("k")
    assert found is not None
    assert (value, None, False) == (found.value, found.meta, found.is_stale)
    assert found.value is not value


@pytest.mark.parametrize("length", [0, 1, MAPPED_BY_ALLOCATOR_BYTES - 1, MAPPED_BY_ALLOCATOR_BYTES, 400_000])
@pytest.mark.parametrize("meta", [None, ["beside"]])
def test_bytes_of_any_length_are_stored(clock: ManualClock, length: int, meta: object) -> None:
    l1 = L1(4 * MIB, clock)
    value = b"x" * length
    assert l1.put("k", value, ttl_s=60, versions=l1.versions_of(["t"]), meta=meta)
    found = l1.get("k")
    assert found is not None
    assert (value, meta) == (found.value, found.meta)
    assert length < l1.held_bytes() < length + 10_000
    l1.remove("k")
    assert 0 == l1.held_bytes()


def test_large_bytes_are_not_copied(clock: ManualClock) -> None:
    l1, value = L1(4 * MIB, clock), b"x" * MAPPED_BY_ALLOCATOR_BYTES
    l1.put("k", value, ttl_s=60, versions=())
    found = l1.get("k")
    assert found is not None
    assert value is found.value


def test_an_object_and_what_is_beside_it_stay_the_same_objects(l1: L1) -> None:
    value, meta = object(), {"content-type": "text/plain"}
    l1.put("k", value, 300, ttl_s=60, versions=(), meta=meta)
    found = l1.get("k")
    assert found is not None
    assert (value, meta) == (found.value, found.meta)
    assert meta is found.meta


def test_what_is_beside_a_value_is_accounted_for(l1: L1) -> None:
    l1.put("k", b"value", ttl_s=60, versions=(), meta=b"x" * 3000)
    assert l1.held_bytes() > 3000
    l1.remove("k")
    assert 0 == l1.held_bytes()


def test_bytes_may_be_accounted_at_more_than_their_length(l1: L1) -> None:
    l1.put("k", b"value", 5000, ttl_s=60, versions=())
    assert l1.held_bytes() > 5000


def test_a_replaced_object_is_let_go(l1: L1) -> None:
    for _ in range(1000):
        l1.put("k", object(), 5000, ttl_s=60, versions=())
    assert l1.held_bytes() < 16_000


def test_what_a_stored_entry_was_built_on_can_be_read(l1: L1) -> None:
    versions = l1.versions_of(["org:1", "k"])
    l1.put("k", b"v", ttl_s=60, versions=versions)
    l1.put("plain", b"v", ttl_s=60, versions=())
    assert (versions, None, None) == (l1.built_on("k"), l1.built_on("plain"), l1.built_on("absent"))


def test_past_its_fresh_time_a_value_is_found_as_stale_for_a_while(l1: L1, clock: ManualClock) -> None:
    l1.put("k", b"v", ttl_s=60, stale_s=30, versions=())
    clock.advance(61)
    found = l1.find("k")
    assert found is not None
    assert (b"v", True, None) == (found.value, found.is_stale, l1.get("k"))
    clock.advance(30)
    assert (None, 1) == (l1.find("k"), l1.evictions["expired"])


def test_without_memory_to_map_a_value_is_refused(l1: L1, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    l1.put("before", b"v", ttl_s=60, versions=())
    monkeypatch.setattr("b1.cache.l1.segments.mmap", no_memory)
    assert not l1.put("k", b"x" * 5000, ttl_s=60, versions=(), owner="a")
    assert (None, 1, ()) == (l1.get("k"), l1.snapshot().refused, l1.snapshot().tenants)
    assert l1.get("before") is not None


def test_without_memory_to_move_what_was_used_it_leaves_too(l1: L1, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    for number in range(100):
        assert l1.put(f"k{number}", b"x" * 500, ttl_s=60, versions=())
        assert l1.get(f"k{number}") is not None
    monkeypatch.setattr("b1.cache.l1.segments.mmap", no_memory)
    before = l1.held_bytes()
    assert l1.reclaim(20_000) >= 20_000
    assert before - 20_000 >= l1.held_bytes()
    assert len(l1) == sum(l1.get(f"k{number}") is not None for number in range(100)) > 0


def test_when_there_is_no_number_for_another_segment_a_value_is_refused(
    l1: L1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b1.cache.l1.policy.MOST_SEGMENTS", 3)
    assert [True] * 3 + [False] == [l1.put(f"k{number}", b"x" * 4000, ttl_s=60, versions=()) for number in range(4)]
    l1.remove("k1")
    assert l1.put("again", b"x" * 4000, ttl_s=60, versions=())
    assert [True, False, True, True] == [l1.get(key) is not None for key in ("k0", "k1", "k2", "again")]


@pytest.mark.parametrize("key", ["", "ä\0x", "\udcff lone", "\U0001f600", "x" * 6000])
def test_any_text_is_a_key(l1: L1, key: str) -> None:
    l1.put(key + "y", b"another", ttl_s=60, versions=())
    assert l1.put(key, b"value", ttl_s=60, versions=l1.versions_of(["t"]))
    found = l1.find(key)
    assert found is not None
    assert (b"value", ("t",)) == (found.value, getattr(l1.built_on(key), "tags", None))
    assert {key, key + "y"} == set(l1.sample(10))


def test_no_python_object_of_an_entry_outlives_its_put(clock: ManualClock) -> None:
    l1 = L1(64 * MIB, clock)
    versions = l1.versions_of(["t"])
    l1.put("first", b"v", ttl_s=60, versions=versions, owner="o")
    before = sys.getallocatedblocks()
    for number in range(20_000):
        l1.put(f"k{number}", b"x" * 200, ttl_s=60, versions=versions, owner="o")
    assert sys.getallocatedblocks() - before < 2000


class TestPeek:
    def test_a_look_is_no_use(self, l1: L1) -> None:
        l1.put("k", b"v", ttl_s=60, versions=())
        looks = [l1.peek("k"), l1.peek("k", marks=True)]
        assert [(False, False, l1._now() + 60)] * 2 == looks
        assert l1.peek("absent") is None

    def test_a_look_that_marks_tells_the_next_one_whether_it_was_read_again(self, l1: L1) -> None:
        l1.put("k", b"v", ttl_s=60, versions=())
        l1.get("k")
        looks = [l1.peek("k"), l1.peek("k", marks=True), l1.peek("k")]
        l1.get("k")
        looks.append(l1.peek("k"))
        assert [(True, True), (True, True), (True, False), (True, True)] == [one[:2] for one in looks if one]


@pytest.mark.parametrize("count", [1, 3, 50, 700, 5000])
def test_a_sample_has_each_key_at_most_once(clock: ManualClock, count: int) -> None:
    l1 = L1(4 * MIB, clock)
    keys = {f"k{number}" for number in range(2000)}
    for key in keys:
        l1.put(key, b"v", ttl_s=60, versions=())
    sampled = l1.sample(count)
    assert min(count, 2000) >= len(sampled) == len(set(sampled)) > min(count, 2000) // 2
    assert keys >= set(sampled)
    assert [] == L1(4 * MIB, clock).sample(count)


class Counting(Source):
    """The versions of a store; counts how often a vector was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def vector(self, tags: Sequence[str]) -> bytes:
        self.asked += 1
        return super().vector(tags)


class TestForeignVersions:
    @pytest.fixture
    def source(self) -> Counting:
        return Counting()

    @pytest.fixture
    def l1(self, clock: ManualClock, source: Counting) -> L1:
        l1 = L1(100_000, clock, versions=source)
        put(l1, "k", "org:1")
        return l1

    def test_while_nothing_changes_no_vector_is_computed(self, l1: L1, source: Counting) -> None:
        before = source.asked
        assert all(l1.get("k") is not None for _ in range(10))
        assert before == source.asked

    def test_after_a_foreign_change_one_is_computed_once(self, l1: L1, source: Counting) -> None:
        source.bump(["another"])
        before = source.asked
        assert all(l1.get("k") is not None for _ in range(10))
        assert before + 1 == source.asked

    def test_a_hard_change_of_a_tag_ends_the_entry(self, l1: L1, source: Counting) -> None:
        source.bump(["org:1"])
        assert (None, 0) == (l1.find("k"), len(l1))
        assert 1 == l1.evictions["invalidated"]

    def test_a_soft_change_makes_it_stale_for_good(self, l1: L1, source: Counting) -> None:
        source.bump((), ["org:1"])
        for _ in range(2):
            found = l1.find("k")
            assert found is not None
            assert (True, None) == (found.is_stale, l1.get("k"))
        source.bump(["another"])
        assert l1.get("k") is None
        source.bump(["org:1"])
        assert l1.find("k") is None

    def test_a_new_epoch_ends_all_that_can_be_invalidated(self, l1: L1, source: Counting) -> None:
        l1.put("for ever", b"v", ttl_s=60, versions=())
        l1.put("no tags", b"v", ttl_s=60, versions=l1.versions_of(()))
        source.bump_all()
        assert [False, False, True] == [l1.find(key) is not None for key in ("k", "no tags", "for ever")]

    @pytest.mark.parametrize("bump", [(["org:1"], ()), ((), ["org:1"])])
    def test_any_change_during_the_load_keeps_the_value_out(
        self, l1: L1, source: Counting, bump: tuple[list[str], list[str]]
    ) -> None:
        versions = l1.versions_of(["org:1"])
        source.bump(*bump)
        assert not l1.put("new", b"old", ttl_s=60, versions=versions)

    def test_an_invalidation_here_is_the_stores_business(self, l1: L1) -> None:
        l1.invalidate(["org:1"])
        assert l1.get("k") is not None


def test_its_snapshot_says_what_it_holds(l1: L1) -> None:
    l1.put("k", b"x" * 1000, ttl_s=60, versions=(), owner="org:1")
    seen = l1.snapshot()
    assert (1, 100_000, 1, 0) == (seen.entries, seen.limit_bytes, seen.segments, seen.refused)
    assert [("org:1", True)] == [(name, 1000 < held < 2000) for name, held in seen.tenants]
    assert seen.resident_bytes <= seen.held_bytes == l1.held_bytes()
