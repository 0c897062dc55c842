"""Replay rings of one process: the newest entries of each stream, and up to where older ones are gone.

Ids are microseconds of the wall clock, or one more than the last: they grow also when a ring was lost in between.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice

from b1.store.base import Replay, StreamEntry

RING_BYTES = 1024
ENTRY_BYTES = 160
_TICK_MS = 1000
_REAP_PER_APPEND = 2


class _Ring:
    """`dropped`: nothing with this id or an older one is held."""

    __slots__ = ("data_bytes", "dropped", "entries", "last", "until_ms")

    def __init__(self, last: int) -> None:
        self.entries: deque[StreamEntry] = deque()
        self.data_bytes = 0
        self.last = self.dropped = last
        self.until_ms = 0

    def drop_oldest(self) -> int:
        """Drop one entry and return the bytes that it was accounted at."""
        entry = self.entries.popleft()
        self.dropped = entry.id
        self.data_bytes -= len(entry.data)
        return ENTRY_BYTES + len(entry.data)


class Streams:
    """A bounded set of rings; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes; beyond it the ring that was used longest ago goes as a whole.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._rings: OrderedDict[str, _Ring] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rings)

    def __repr__(self) -> str:
        return f"Streams(rings={len(self._rings)}, held={self.held_bytes}/{self.limit_bytes} B)"

    def append(
        self, stream: str, data: bytes, *, keep: int, keep_bytes: int, ttl_ms: int, now_ms: int, wall_us: int
    ) -> int:
        """Add an entry and return its id."""
        self._reap(now_ms)
        ring = self._ring(stream, now_ms, wall_us)
        ring.last = max(ring.last + 1, wall_us)
        ring.entries.append(StreamEntry(ring.last, data))
        ring.data_bytes += len(data)
        ring.until_ms = now_ms + ttl_ms
        self.held_bytes += ENTRY_BYTES + len(data)
        while len(ring.entries) > 1 and (len(ring.entries) > keep or ring.data_bytes > keep_bytes):
            self.held_bytes -= ring.drop_oldest()
        while self.held_bytes > self.limit_bytes and len(self._rings) > 1:
            self._forget(next(iter(self._rings)))
        return ring.last

    def read_since(self, stream: str, after: int, *, limit: int, now_ms: int) -> Replay:
        """Return what is held after the entry `after`."""
        ring = self._rings.get(stream)
        if ring is None or ring.until_ms <= now_ms:
            return Replay((), after == 0)
        newer = (entry for entry in ring.entries if entry.id > after)
        return Replay(tuple(islice(newer, limit)), after == 0 or after >= ring.dropped)

    def follow(self, stream: str, last: int, *, ttl_ms: int, now_ms: int) -> None:
        """Know the newest id that Redis gave, so that those given here continue it; nothing else is kept."""
        ring = self._rings.pop(stream, None)
        if ring is not None:
            self.held_bytes -= self._size(stream, ring)
        ring = self._rings[stream] = _Ring(last)
        ring.until_ms = now_ms + ttl_ms
        self.held_bytes += self._size(stream, ring)
        while self.held_bytes > self.limit_bytes and len(self._rings) > 1:
            self._forget(next(iter(self._rings)))

    def _ring(self, stream: str, now_ms: int, wall_us: int) -> _Ring:
        ring = self._rings.get(stream)
        if ring is not None and ring.until_ms > now_ms:
            self._rings.move_to_end(stream)
            return ring
        if ring is not None:
            self._forget(stream)
        ring = self._rings[stream] = _Ring(wall_us - 1)
        self.held_bytes += self._size(stream, ring)
        return ring

    def _reap(self, now_ms: int) -> None:
        for stream in list(islice(self._rings, _REAP_PER_APPEND)):
            if self._rings[stream].until_ms <= now_ms:
                self._forget(stream)

    def _forget(self, stream: str) -> None:
        self.held_bytes -= self._size(stream, self._rings.pop(stream))

    @staticmethod
    def _size(stream: str, ring: _Ring) -> int:
        return RING_BYTES + len(stream) + len(ring.entries) * ENTRY_BYTES + ring.data_bytes
