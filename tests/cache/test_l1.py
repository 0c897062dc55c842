"""The map is bounded in bytes, and what was invalidated is never served."""

import pytest

from b1.cache import L1
from b1.clock import ManualClock


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


def test_forgetting_all_tags_makes_tagged_entries_stale(l1: L1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b1.cache.l1.TAG_LIMIT", 3)
    put(l1, "a", "t1")
    for number in range(5):
        l1.versions_of([f"new{number}"])
    assert l1.get("a") is None


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
