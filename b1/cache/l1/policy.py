"""S3-FIFO over segments: what came is kept, moved or evicted when the head of its queue reaches it.

Two queues: new items enter the small one (a tenth of the bytes), what was used there moves to the main one, and what is
used in the main one goes round again. Nothing moves on a hit, so a hit is one byte written. An item that is not wanted any
more leaves its bytes behind until the head has passed it, or until nothing in its segment is wanted.

Algorithm: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. Ours differs in that a queue is a
log of segments, uses are one mark instead of a count up to three (a little worse where the favourites stay the same, better
by up to 1.5 points where they change), and a tenant over its share has no second chances.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from b1.cache.l1.ghost import Ghost
from b1.cache.l1.index import ENTRY_BYTES, Index
from b1.cache.l1.layout import (
    ALIGNED_BITS,
    GONE,
    HEADER_BYTES,
    META,
    MOST_SEGMENTS,
    OBJECT,
    PLACE_BITS,
    PLACE_MASK,
    UNREAD,
    Header,
    Item,
)
from b1.cache.l1.segments import Queue, Segment, segment_bytes
from b1.cache.l1.tenants import Tenants
from b1.units import KIB

# The small queue's part of the bytes, as a divisor.
SMALL_PART = 10
# One remembered key for so many bytes of the limit, 4 bytes each.
BYTES_PER_GHOST = 512
# So much may be moved by one call, beside twice what it makes room for: moving is copying. After that, used items go too.
# Moving 60 bytes takes as long as moving 600, so small ones count for more: 64 KiB of them would hold the loop for 8 ms.
MOVED_BYTES, LEAST_MOVED_BYTES = 64 * KIB, 512
# Lest it comes to that, each put moves a few used items away from the head before there is need for room: from the moment
# when this part of the ceiling, as a divisor, is all that is left.
MOVED_PER_PUT, NEARLY_FULL_PART = 8, 16

_UNREAD = bytes([UNREAD])


class S3Fifo:
    """The items. Not told about time or versions: see `b1.cache.l1.table`.

    Attributes:
        held_bytes: accounted: touched pages, index, what is held beside, and the memory of evicted keys.
        evictions: by cause.
        ghost_bytes: the memory of evicted keys, which is made shortly before the first eviction.
        returned_bytes: pages that were given back to the system since the start.
    """

    __slots__ = (
        "_ghost",
        "_limit_bytes",
        "_main",
        "_numbers",
        "_segment_bytes",
        "_small",
        "evictions",
        "ghost_bytes",
        "held_bytes",
        "index",
        "live",
        "returned_bytes",
        "segments",
        "tenants",
    )

    def __init__(self, limit_bytes: int, *, tenant_share: float) -> None:
        self.index = Index(limit_bytes, self.name_at)
        self.segments: dict[int, Segment] = {}
        self.tenants = Tenants(tenant_share)
        self.held_bytes = 0
        self.returned_bytes = 0
        self.live = 0
        self.evictions = {"size": 0, "expired": 0, "invalidated": 0, "pressure": 0, "quota": 0}
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes(limit_bytes)
        self._small, self._main = Queue(), Queue()
        self._ghost: Ghost | None = None
        self.ghost_bytes = 0
        self._numbers: list[int] = []  # of segments that were closed

    def __repr__(self) -> str:
        return f"<S3Fifo items={self.live} held_bytes={self.held_bytes} segments={len(self.segments)}>"

    @property
    def resident_bytes(self) -> int:
        """Pages of all segments."""
        return sum(segment.resident_bytes for segment in self.segments.values())

    @property
    def small_bytes(self) -> int:
        """What the small queue holds."""
        return self._small.held_bytes

    def locate(self, place: int) -> tuple[Segment, int]:
        """Return the segment that a place is in, and where the item begins there."""
        return self.segments[place >> PLACE_BITS], (place & PLACE_MASK) << ALIGNED_BITS

    def name_at(self, place: int) -> bytes:
        """Return the key of the item at a place, as bytes."""
        segment, at = self.locate(place)
        begin = at + HEADER_BYTES
        return segment.data[begin : begin + segment.header(at).key_bytes]

    # Putting

    def put(self, item: Item, cost_bytes: int, *, owner: str, ceiling_bytes: int) -> None:
        """Store an item that is accounted at `cost_bytes`; what has the key already is replaced.

        Raises:
            OSError: the system has no memory to map, or the index no room for such a key.
        """
        state = UNREAD
        is_proven = self._ghost is not None and self._ghost.has(item.digest, self.live)
        place = self.index.get(item.digest, item.name)
        if place is not None:
            segment, at = self.locate(place)
            state = segment.data[at]
            is_proven = is_proven or segment.queue is self._main
            self._forget(place, segment, at)
        if is_proven and owner and self.tenants.is_named_over(owner, ceiling_bytes):
            is_proven = False
        self.index.reserve(item.digest)
        segment = self._with_room(self._main if is_proven else self._small, item.item_bytes)
        tenant = self.tenants.add(owner, cost_bytes) if owner else 0
        place = self._append(segment, item.parts(state, tenant), item.flags, item.beside_bytes, item.value, item.meta)
        self.index.put(item.digest, place)

    def _with_room(self, queue: Queue, item_bytes: int) -> Segment:
        segment = queue.open
        if segment is None or not segment.has_room(item_bytes):
            number = self._numbers[-1] if self._numbers else len(self.segments) + 1
            if number > MOST_SEGMENTS:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            segment = Segment(number, max(self._segment_bytes, item_bytes), queue)
            del self._numbers[-1:]
            self.segments[number] = segment
            queue.begin(segment)
        return segment

    def _append(
        self, segment: Segment, parts: tuple[bytes, ...], flags: int, beside_bytes: int, value: Any, meta: Any
    ) -> int:
        """Write an item, account for it, and return its place."""
        at = segment.end
        grown = segment.append(parts)
        segment.live += 1
        self.live += 1
        if flags & OBJECT:
            segment.objects[at] = value
        if flags & META:
            segment.metas[at] = meta
        self._account(segment, grown + ENTRY_BYTES + beside_bytes)
        return _place(segment, at)

    def drop(self, digest: int, name: bytes, cause: str | None) -> None:
        """Forget an item, if it is there; a `cause` counts it. One that was of use is welcome back in the main queue."""
        place = self.index.get(digest, name)
        if place is None:
            return
        segment, at = self.locate(place)
        if self._ghost is not None and (segment.queue is self._main or segment.data[at] != UNREAD):
            self._ghost.add(digest)
        self._forget(place, segment, at)
        if cause is not None:
            self.evictions[cause] += 1

    def _forget(self, place: int, segment: Segment, at: int) -> None:
        header = segment.header(at)
        self.index.remove(header.digest, place)
        if header.tenant:
            self.tenants.remove(header.tenant, cost(header))
        self._leave(segment, at, header)
        if not segment.live:
            self._close(segment)

    def _leave(self, segment: Segment, at: int, header: Header) -> None:
        """Account for an item that is no longer this segment's; its bytes stay until the segment gives them back."""
        segment.data[at] = GONE
        segment.live -= 1
        self.live -= 1
        if header.flags & OBJECT:
            del segment.objects[at]
        if header.flags & META:
            del segment.metas[at]
        self._account(segment, -ENTRY_BYTES - header.beside_bytes)

    def _close(self, segment: Segment) -> None:
        self.returned_bytes += segment.resident_bytes
        segment.queue.end(segment)
        del self.segments[segment.number]
        self._numbers.append(segment.number)
        segment.close()
        self._account(segment, -segment.held_bytes)

    def _account(self, segment: Segment, change_bytes: int) -> None:
        segment.held_bytes += change_bytes
        segment.queue.held_bytes += change_bytes
        self.held_bytes += change_bytes

    # Evicting

    def make_room(self, ceiling_bytes: int, most_bytes: int) -> None:
        """Evict until the ceiling is kept, or `most_bytes` were given up.

        The second bound is for a ceiling that fell far: it must not hold up one put.
        """
        before = self.held_bytes
        if (ceiling_bytes - before) * NEARLY_FULL_PART < ceiling_bytes:
            self._prepare(ceiling_bytes)
        if self.held_bytes > ceiling_bytes:
            most_bytes += 2 * max(0, self.held_bytes - before)  # a move takes new pages before it gives old ones back
            self._evict(max(ceiling_bytes, self.held_bytes - most_bytes), ceiling_bytes, "size")
        elif self._ghost is None and self.held_bytes * 4 > ceiling_bytes * 3:
            self._remember(ceiling_bytes)

    def reclaim(self, target_bytes: int, *, spares_used: bool) -> int:
        """Evict until `target_bytes` are given up or nothing is left; return what was given up."""
        before = self.held_bytes
        if target_bytes >= before:
            self.clear("pressure")
        else:
            self._evict(before - target_bytes, before, "pressure", spares_used=spares_used)
            if not self.live:
                self._forget_the_evicted()
        return before - self.held_bytes

    def clear(self, cause: str) -> None:
        """Let everything go, by segments: one item after the other would hold the loop for seconds."""
        self.evictions[cause] += self.live
        segments = list(self.segments.values())
        self.index.clear()
        self.tenants.clear()
        for segment in segments:
            self.live -= segment.live
            self._close(segment)
        self._forget_the_evicted()

    def _evict(self, down_to_bytes: int, ceiling_bytes: int, cause: str, *, spares_used: bool = True) -> None:
        # Bounded, or a queue in which everything was used would be copied as a whole by one call.
        may_move = MOVED_BYTES + 2 * (self.held_bytes - down_to_bytes) if spares_used else 0
        while self.held_bytes > down_to_bytes and self.segments:
            moved = self._consume(self._next(ceiling_bytes), ceiling_bytes, cause, may_move=may_move > 0)
            if moved:
                may_move -= max(moved, LEAST_MOVED_BYTES)

    def _prepare(self, ceiling_bytes: int) -> None:
        """Pass over the used and the gone at the head, so that what is to leave next stands there."""
        for _ in range(MOVED_PER_PUT):
            queue = self._next(ceiling_bytes)
            if not queue.segments or queue.segments[0] is queue.open:
                return
            segment = queue.segments[0]
            if segment.data[segment.head] == UNREAD:
                return
            self._consume(queue, ceiling_bytes, "size", may_move=True)

    def _next(self, ceiling_bytes: int) -> Queue:
        is_small = self._small.held_bytes * SMALL_PART > ceiling_bytes or not self._main.segments
        return self._small if is_small and self._small.segments else self._main

    def _consume(self, queue: Queue, ceiling_bytes: int, cause: str, *, may_move: bool) -> int:
        """Pass over the item at the head of a queue; return its bytes if it was moved, else 0."""
        segment = queue.head()
        at = segment.head
        header = segment.header(at)
        item_bytes, moved = header.item_bytes, 0
        if header.state != GONE:
            is_kept = may_move and header.state != UNREAD
            if is_kept and self.tenants.is_over(header.tenant, ceiling_bytes):
                cause, is_kept = "quota", False
            if is_kept and self._has_moved_whole(segment, header):
                return item_bytes
            if is_kept and self._has_moved(segment, at, header):
                moved = item_bytes
            else:
                self._give_up(segment, at, header, cause)
        if not segment.live:
            self._close(segment)
        elif returned := segment.consume(item_bytes):
            self.returned_bytes += returned
            self._account(segment, -returned)
        return moved

    def _give_up(self, segment: Segment, at: int, header: Header, cause: str) -> None:
        self.index.remove(header.digest, _place(segment, at))
        if header.tenant:
            self.tenants.remove(header.tenant, cost(header))
        self._leave(segment, at, header)
        self.evictions[cause] += 1
        if self._ghost is not None and segment.queue is self._small:
            self._ghost.add(header.digest)

    def _has_moved(self, segment: Segment, at: int, header: Header) -> bool:
        """Append a copy of an item to the main queue, without its mark; say whether there was memory for it."""
        try:
            goal = self._with_room(self._main, header.item_bytes)
        except OSError:
            return False
        parts = (_UNREAD, segment.data[at + 1 : at + header.item_bytes])
        value, meta = segment.objects.get(at), segment.metas.get(at)
        self._leave(segment, at, header)
        place = self._append(goal, parts, header.flags, header.beside_bytes, value, meta)
        self.index.move(header.digest, _place(segment, at), place)
        return True

    def _has_moved_whole(self, segment: Segment, header: Header) -> bool:
        """Move a segment that a single large item fills, without copying it; say whether it was one."""
        if segment.count > 1 or header.item_bytes < self._segment_bytes // 2:
            return False
        segment.data[0] = UNREAD
        segment.queue.end(segment)
        segment.queue.held_bytes -= segment.held_bytes
        segment.queue = self._main
        self._main.held_bytes += segment.held_bytes
        # Before the open one, which stays the last.
        self._main.segments.insert(len(self._main.segments) - (self._main.open is not None), segment)
        return True

    def _remember(self, ceiling_bytes: int) -> None:
        """Begin to remember who is evicted, shortly before that begins: later there is no room for it."""
        ghost = Ghost(self._limit_bytes // BYTES_PER_GHOST)
        if self.held_bytes + ghost.held_bytes <= ceiling_bytes:
            self._ghost, self.ghost_bytes = ghost, ghost.held_bytes
            self.held_bytes += ghost.held_bytes

    def _forget_the_evicted(self) -> None:
        self.held_bytes -= self.ghost_bytes
        self._ghost, self.ghost_bytes = None, 0


def cost(item: Item | Header) -> int:
    """Return what an item is accounted at. Pages are shared by items: their rounding is not in it."""
    return item.item_bytes + item.beside_bytes + ENTRY_BYTES


def _place(segment: Segment, at: int) -> int:
    return segment.number << PLACE_BITS | at >> ALIGNED_BITS
