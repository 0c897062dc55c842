"""What one call on the map may cost at the most, counted in items: time is no measure on a busy machine."""

from __future__ import annotations

import pytest

from b1.cache import L1
from b1.cache.l1.index import Index
from b1.cache.l1.policy import LEAST_MOVED_BYTES, MOVED_BYTES, S3Fifo
from b1.clock import ManualClock
from b1.units import KIB, MIB
from tests.cache.test_l1_model import audit

TINY_BYTES = 8


class Work:
    """Counts entries of the index that were changed: what moving and evicting have in common."""

    def __init__(self) -> None:
        self.done = 0

    def since(self, before: int) -> int:
        return self.done - before


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    counted = Work()
    for name in ("move", "remove"):
        call = getattr(Index, name)

        def counting(self: Index, *args: int, call: object = call) -> None:
            counted.done += 1
            call(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(Index, name, counting)
    return counted


def tiny(l1: L1, *, is_read: bool, owner: str = "") -> int:
    """Fill the map nearly up with tiny entries; return how many."""
    count = 0
    while l1.held_bytes() < l1.ceiling_bytes * 0.9:
        l1.put(f"k{count}", b"x" * TINY_BYTES, ttl_s=1e6, versions=(), owner=owner)
        if is_read:
            l1.find(f"k{count}")
        count += 1
    return count


@pytest.mark.parametrize("is_read", [False, True])
def test_a_slice_of_a_reclaim_moves_and_evicts_few_items_however_small_they_are(
    clock: ManualClock, work: Work, is_read: bool
) -> None:
    l1 = L1(2 * MIB, clock)
    tiny(l1, is_read=is_read)
    most = 0
    for _ in range(150):
        before = work.done
        l1.reclaim(4 * KIB)
        most = max(most, work.since(before))
    # A page or two of tiny items that are evicted, and those that may be moved; up to 16 KiB go before a page is back.
    assert most <= (MOVED_BYTES + 8 * KIB) // LEAST_MOVED_BYTES + 20 * KIB // 60
    audit(l1)


def test_a_put_into_a_map_in_which_all_was_read_moves_few(clock: ManualClock, work: Work) -> None:
    l1 = L1(MIB, clock)
    tiny(l1, is_read=True)
    l1.set_level(3)  # what is held is the ceiling from now on, and half the limit at most
    most = 0
    for number in range(300):
        before = work.done
        l1.put(f"n{number}", b"y" * TINY_BYTES, ttl_s=1e6, versions=())
        most = max(most, work.since(before))
    assert most <= (MOVED_BYTES + 32 * KIB) // LEAST_MOVED_BYTES + 36 * KIB // 60
    audit(l1)


@pytest.mark.parametrize("how", ["cleared", "reclaimed"])
def test_everything_goes_by_segments_and_not_by_items(
    clock: ManualClock, work: Work, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    l1 = L1(MIB, clock)
    count = tiny(l1, is_read=True, owner="one")
    for number in range(50):
        l1.put(f"object{number}", [number], ttl_s=60, versions=(), meta=(number,), owner=f"owner{number}")
    held, evicted, before = len(l1), sum(l1.evictions.values()), work.done
    monkeypatch.setattr(S3Fifo, "_consume", None)
    if how == "cleared":
        l1.clear()
    else:
        l1.reclaim(l1.held_bytes())
    assert (0, 0, 0, 0) == (len(l1), l1.held_bytes(), work.since(before), len(l1.maps()))
    assert ((), 0, 0) == (l1.snapshot().tenants, l1.snapshot().small_bytes, l1._items.index.table_bytes)
    assert held == sum(l1.evictions.values()) - evicted
    assert [None] * 2 == [l1.find("k1"), l1.find("object3")]
    monkeypatch.undo()
    assert count == sum(l1.put(f"k{number}", b"new", ttl_s=60, versions=(), owner="two") for number in range(count))
    found = l1.find(f"k{count - 1}")
    assert found is not None and b"new" == found.value
    audit(l1)
