"""A segment: anonymous memory that items are appended to, that is consumed from its head, and given back page by page.

The mapping is private: a shared one, which is Python's default, would be missing from what the governor counts as ours.
A page that nothing was written to takes no memory, so the unused end of a sealed segment costs nothing.
"""

from __future__ import annotations

import contextlib
import mmap as mmap_module
from collections import deque
from mmap import MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, PROT_READ, PROT_WRITE, mmap
from typing import Any

from b1.cache.l1.layout import ALIGNED_BYTES, HEADER, Header
from b1.units import KIB, MIB

# What is given back while a segment is being consumed: one call to the kernel for so much. Smaller means more calls,
# larger means that one `put` has more to do before room appears.
RELEASED_BYTES = max(PAGESIZE, 16 * KIB)
LEAST_SEGMENT_BYTES, MOST_SEGMENT_BYTES = PAGESIZE, MIB
SEGMENTS = 64

# What `Header._make` does, in half the time; evicting reads one for each item.
_as_tuple = tuple.__new__
_NO_HUGE_PAGES: int | None = getattr(mmap_module, "MADV_NOHUGEPAGE", None)  # Linux alone has it


def segment_bytes(limit_bytes: int) -> int:
    """Return the size of a segment for a budget: a 64th of it, whole pages, at most 1 MiB."""
    wanted = limit_bytes // SEGMENTS // PAGESIZE * PAGESIZE
    return max(LEAST_SEGMENT_BYTES, min(MOST_SEGMENT_BYTES, wanted))


class Segment:
    """Items one after the other. Everything here is O(1) but `close`, which unmaps.

    Attributes:
        data: the mapping. Only copies are ever taken out of it, so it can always be unmapped.
        head: where the first item begins that was not consumed yet.
        count: items that were appended.
        live: items that the index still points at.
        held_bytes: what is accounted for this segment: its touched pages, its items' entries of the index, and what is
            held beside them.
        objects, metas: values that are no bytes, and small objects beside a value, by their item's place.
    """

    __slots__ = (
        "_released",
        "_size_bytes",
        "_touched",
        "count",
        "data",
        "end",
        "head",
        "held_bytes",
        "live",
        "metas",
        "number",
        "objects",
        "queue",
    )

    def __init__(self, number: int, size_bytes: int, queue: Queue) -> None:
        self.number = number
        self.queue = queue
        self.data = mmap(-1, size_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS, prot=PROT_READ | PROT_WRITE)
        forbid_huge_pages(self.data)
        self.objects: dict[int, Any] = {}
        self.metas: dict[int, Any] = {}
        self.count = self.live = 0
        self.held_bytes = 0
        self.head = self.end = 0
        self._size_bytes = size_bytes
        self._touched = self._released = 0

    def __repr__(self) -> str:
        return f"<Segment {self.number} live={self.live} of {self.count} resident_bytes={self.resident_bytes}>"

    @property
    def resident_bytes(self) -> int:
        """Pages that were written to and not given back yet."""
        return self._touched - self._released

    def has_room(self, item_bytes: int) -> bool:
        """Say whether an item still fits."""
        return self.end + item_bytes <= self._size_bytes

    def append(self, parts: tuple[bytes, ...]) -> int:
        """Write an item at the end; return how many bytes of pages were touched for the first time."""
        data, at = self.data, self.end
        for part in parts:
            after = at + len(part)
            data[at:after] = part
            at = after
        self.count += 1
        self.end = at + ALIGNED_BYTES - 1 & -ALIGNED_BYTES
        if at <= self._touched:
            return 0
        before, self._touched = self._touched, (at + PAGESIZE - 1) // PAGESIZE * PAGESIZE
        return self._touched - before

    def header(self, at: int) -> Header:
        """Return the header of the item that begins there."""
        return _as_tuple(Header, HEADER.unpack_from(self.data, at))

    def consume(self, item_bytes: int) -> int:
        """Pass over the first item; return how many bytes of pages went back to the system."""
        self.head += item_bytes
        if self.head - self._released < RELEASED_BYTES:
            return 0
        before, self._released = self._released, self.head // PAGESIZE * PAGESIZE
        self.data.madvise(MADV_DONTNEED, before, self._released - before)
        return self._released - before

    def close(self) -> None:
        """Unmap: everything is back with the system at once."""
        self.data.close()
        self._released = self._touched
        self.objects.clear()
        self.metas.clear()


class Queue:
    """Segments in the order in which they were begun. The last one may be open: it is being appended to."""

    __slots__ = ("held_bytes", "open", "segments")

    def __init__(self) -> None:
        self.segments: deque[Segment] = deque()
        self.open: Segment | None = None
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Queue segments={len(self.segments)} held_bytes={self.held_bytes}>"

    def begin(self, segment: Segment) -> None:
        """Append to this one from now on."""
        self.segments.append(segment)
        self.open = segment

    def head(self) -> Segment:
        """Return the oldest segment, to be consumed: nothing is appended to it any more."""
        segment = self.segments[0]
        if segment is self.open:
            self.open = None
        return segment

    def end(self, segment: Segment) -> None:
        """Leave a segment, wherever it stands."""
        if segment is self.open:
            self.open = None
        if segment is self.segments[0]:
            self.segments.popleft()
        else:
            self.segments.remove(segment)


def forbid_huge_pages(data: mmap) -> None:
    """Keep one written byte from taking 2 MiB where the kernel prefers huge pages."""
    if _NO_HUGE_PAGES is not None:
        # A kernel that was built without huge pages refuses the advice, and has none to give.
        with contextlib.suppress(OSError):
            data.madvise(_NO_HUGE_PAGES)
