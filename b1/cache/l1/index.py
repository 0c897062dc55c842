"""Where each key's item lies: pages of 32-bit digests and places outside the interpreter's heap.

A key's digest chooses a page and a place in it; what is taken passes on to the next place. A page that is nearly full is
split in two, and two that are nearly empty become one, so growing and shrinking take a fifth of a millisecond each and
hold up nothing: a dictionary of 100 000 keys that grows takes milliseconds, and what it gives up stays in the heap.

Method: extendible hashing (Fagin, Nievergelt, Pippenger, Strong, 1979) over pages with linear probing; the directory has
its full length from the start, 8 bytes for each 16 KiB of the limit. Searching a page's digests with `mmap.find` instead
was measured at twice the time, because what is searched for has to be packed first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

from b1.cache.l1.segments import forbid_huge_pages

PAGE_BYTES = 4096
# A page: 511 digests, how many of them are taken, 511 places, and how many bits of the digest the page stands for.
PLACES = 511
COUNT_AT, PLACE_AT, DEPTH_AT = PLACES, PLACES + 1, 2 * PLACES + 1
# The digest's lowest bits are left to the place in the page.
SPREAD_BITS, MOST_SPREAD = 9, 2**21
# From 320 entries on a page is split; two that have no more than 240 together become one again.
SPLIT_AT, MERGED_AT = 320, 240
# Whether a page can be merged is looked at after so many removals, the last one among them.
MERGED_EVERY = 8
# So many are the most where a page cannot be split any more. Some places must stay free: a search ends there.
MOST_ENTRIES = 480
# What an entry takes: 8 bytes, in pages that are a third to two thirds full.
ENTRY_BYTES = 20
# The directory is as long as the tiniest entries would need.
BYTES_PER_SLOT = 16 * 1024

_FREE = memoryview(bytes(PAGE_BYTES)).cast("I")


class Index:
    """Places by digest and key. Its rows may be read directly, as `L1.find` does: it is the cache's hottest line.

    Args:
        limit_bytes: the map's.
        name_at: returns the key of the item at a place; digests alone are not unique.

    Attributes:
        rows: the directory: the page for each value of the digest's bits from `SPREAD_BITS` on, under `mask`. The list
            stays the same for ever.
    """

    __slots__ = ("_count", "_name_at", "_pages", "mask", "rows")

    def __init__(self, limit_bytes: int, name_at: Callable[[int], bytes]) -> None:
        slots = 1
        while slots < MOST_SPREAD and slots * BYTES_PER_SLOT < limit_bytes:
            slots *= 2
        self.rows: list[memoryview[int]] = [_FREE] * slots
        self.mask = slots - 1
        self._name_at = name_at
        self._count = self._pages = 0

    def __repr__(self) -> str:
        return f"<Index entries={len(self)} table_bytes={self.table_bytes}>"

    def __len__(self) -> int:
        return self._count

    @property
    def table_bytes(self) -> int:
        """What the pages take; none while there is no entry."""
        return self._pages * PAGE_BYTES

    def get(self, digest: int, name: bytes) -> int | None:
        """Return the place of a key."""
        row, at = self._row(digest), digest % PLACES
        while seen := row[at]:
            if seen == digest and self._name_at(place := row[at + PLACE_AT]) == name:
                return place
            at = (at + 1) % PLACES
        return None

    def reserve(self, digest: int) -> None:
        """Make room for an entry, so that the `put` after it cannot fail.

        Raises:
            OSError: the system has no memory to map; or 480 keys have the same digest, all but for its lowest bits.
        """
        while True:
            row = self._row(digest)
            if row is _FREE:
                self._begin()
            elif row[COUNT_AT] < SPLIT_AT:
                return
            elif 1 << row[DEPTH_AT] <= self.mask:
                self._split(digest, row)
            elif row[COUNT_AT] < MOST_ENTRIES:
                return
            else:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def put(self, digest: int, place: int) -> None:
        """Add an entry, for which room was reserved and which is not there yet."""
        row = self._row(digest)
        _add(row, digest, place)
        row[COUNT_AT] += 1
        self._count += 1

    def move(self, digest: int, place: int, to: int) -> None:
        """Note that an item lies elsewhere now."""
        row = self._row(digest)
        row[_seek(row, digest, place) + PLACE_AT] = to

    def remove(self, digest: int, place: int) -> None:
        """Forget an entry that is there."""
        row = self.rows[digest >> SPREAD_BITS & self.mask]
        _close_up(row, _seek(row, digest, place))
        self._count -= 1
        row[COUNT_AT] = count = row[COUNT_AT] - 1
        if count <= MERGED_AT and count % MERGED_EVERY == 0:
            self._merge(digest >> SPREAD_BITS & self.mask, row, count)

    def clear(self) -> None:
        """Forget all entries."""
        self._point(0, 0, _FREE)
        self._count = self._pages = 0

    def places(self, first: int) -> Iterator[list[int]]:
        """Yield the places in each page once, beginning at any number; nothing may be changed meanwhile."""
        seen: set[int] = set()
        for number in range(first, first + self.mask + 1):
            if len(seen) == self._pages:
                return
            row = self.rows[number & self.mask]
            if id(row) not in seen:
                seen.add(id(row))
                words = row.tolist()
                yield [words[at + PLACE_AT] for at in range(PLACES) if words[at]]

    def _row(self, digest: int) -> memoryview[int]:
        return self.rows[digest >> SPREAD_BITS & self.mask]

    def _begin(self) -> None:
        self.rows[:] = [_page()] * len(self.rows)
        self._pages = 1

    def _split(self, digest: int, row: memoryview[int]) -> None:
        """Move those entries of a page to a new one that have the next bit of the digest set."""
        fresh, words, depth = _page(), row.tolist(), row[DEPTH_AT]
        bit = 1 << depth
        row[:] = _FREE
        for at in range(PLACES):
            if seen := words[at]:
                goal = fresh if seen >> SPREAD_BITS & bit else row
                _add(goal, seen, words[at + PLACE_AT])
                goal[COUNT_AT] += 1
        row[DEPTH_AT] = fresh[DEPTH_AT] = depth + 1
        self._point(digest >> SPREAD_BITS & bit - 1 | bit, depth + 1, fresh)
        self._pages += 1

    def _merge(self, slot: int, row: memoryview[int], count: int) -> None:
        """Join a page with its other half, and what comes of it with the next, while they are nearly empty."""
        while depth := row[DEPTH_AT]:
            other = self.rows[slot ^ 1 << depth - 1]
            other_count = other[COUNT_AT]
            if count + other_count > MERGED_AT or other[DEPTH_AT] != depth:
                return
            if count < other_count:
                row, other = other, row
            words = other.tolist()
            for at in range(PLACES):
                if words[at]:
                    _add(row, words[at], words[at + PLACE_AT])
            row[COUNT_AT] = count = count + other_count
            row[DEPTH_AT] = depth - 1
            self._point(slot, depth - 1, row)
            self._pages -= 1
        if not count:
            self._point(0, 0, _FREE)
            self._pages = 0

    def _point(self, slot: int, depth: int, row: memoryview[int]) -> None:
        """Let a page stand for all slots that have the same lowest bits as this one. The one before it is unmapped."""
        first, step = slot & (1 << depth) - 1, 1 << depth
        self.rows[first::step] = [row] * (len(self.rows) >> depth)


def _page() -> memoryview[int]:
    data = mmap(-1, PAGE_BYTES, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    forbid_huge_pages(data)
    return memoryview(data).cast("I")


def _add(row: memoryview[int], digest: int, place: int) -> None:
    at = digest % PLACES
    while row[at]:
        at = (at + 1) % PLACES
    row[at] = digest
    row[at + PLACE_AT] = place


def _seek(row: memoryview[int], digest: int, place: int) -> int:
    at = digest % PLACES
    while row[at] != digest or row[at + PLACE_AT] != place:
        if not row[at]:
            raise KeyError(place)
        at = (at + 1) % PLACES
    return at


def _close_up(row: memoryview[int], hole: int) -> None:
    """Free a place, and let those behind it close up that would else not be found any more."""
    at = hole + 1 if hole < PLACES - 1 else 0
    while seen := row[at]:
        if (at - seen) % PLACES >= (at - hole) % PLACES:
            row[hole] = seen
            row[hole + PLACE_AT] = row[at + PLACE_AT]
            hole = at
        at = at + 1 if at < PLACES - 1 else 0
    row[hole] = 0
