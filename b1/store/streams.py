"""Replay rings of one process: the newest entries of each stream, and up to where older ones are gone.

Ids are microseconds of the wall clock, or one more than the last: they grow also when a ring was lost in between.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice

from b1.store.base import Replay, StreamEntry
from b1.store.passed import NEWS, PassedRing, Received

RING_BYTES = 1024
ENTRY_BYTES = 160
_TICK_MS = 1000
_REAP_PER_APPEND = 2


class _Ring:
    """`dropped`: nothing with this id or an older one is held. `is_own`: something was appended in this process."""

    __slots__ = ("data_bytes", "dropped", "entries", "is_own", "last", "until_ms")

    def __init__(self, last: int) -> None:
        self.entries: deque[StreamEntry] = deque()
        self.data_bytes = 0
        self.last = self.dropped = last
        self.until_ms = 0
        self.is_own = False

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
        self.news: dict[str, int] | None = None
        """Rings that changed since `watch`, and their newest id before that; None when nobody asked."""
        self.least_id = 0
        """Ids given here are not below it: those below are a predecessor's, which may still give some."""
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
        if self.news is not None and len(self.news) < NEWS:
            self.news.setdefault(stream, ring.last)
        ring.last = max(ring.last + 1, wall_us, self.least_id)
        ring.is_own = True
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

    def watch(self) -> None:
        """Note from now on which rings change."""
        self.news = {}

    def keys(self) -> list[str]:
        """Return all streams, the one used last first."""
        return list(reversed(self._rings))

    @property
    def last_id(self) -> int:
        """The newest id in any ring."""
        return max((ring.last for ring in self._rings.values()), default=0)

    def passing(self, stream: str, now_ms: int, *, since: int = 0) -> PassedRing | None:
        """Return what a ring holds after the id `since`; None when it is gone."""
        ring = self._rings.get(stream)
        if ring is None or ring.until_ms <= now_ms:
            return None
        newer = tuple(entry for entry in ring.entries if entry.id > since)
        return PassedRing(stream, since, ring.dropped, ring.until_ms, newer)

    def receive(self, passed: PassedRing, now_ms: int) -> Received:
        """Go on from what another process holds.

        Its ids stay while nothing was appended here. Where something was, a reader may have seen ids above them: then
        its entries are appended once more, with new ids, because twice is better than never.
        """
        size = RING_BYTES + len(passed.stream) + sum(ENTRY_BYTES + len(data) for _, data in passed.entries)
        ring = self._rings.get(passed.stream)
        if passed.until_ms <= now_ms:
            return Received.TAKEN
        if self.held_bytes + size > self.limit_bytes:
            return Received.NO_ROOM
        if ring is None:
            ring = self._rings[passed.stream] = _Ring(max(passed.dropped, passed.since))
            self._rings.move_to_end(passed.stream, last=False)  # the one used last comes first
            self.held_bytes += self._size(passed.stream, ring)
        elif 0 < passed.since < passed.dropped:
            # Some that were appended meanwhile are gone there already: whoever asks for them has to be told.
            while ring.entries:
                self.held_bytes -= ring.drop_oldest()
            ring.dropped = ring.last = max(ring.last, passed.dropped)
        for entry_id, data in passed.entries:
            if ring.is_own:
                entry_id = ring.last + 1
            elif entry_id <= ring.last:
                continue
            ring.entries.append(StreamEntry(entry_id, data))
            ring.last = entry_id
            ring.data_bytes += len(data)
            self.held_bytes += ENTRY_BYTES + len(data)
        ring.until_ms = max(ring.until_ms, passed.until_ms)
        return Received.TAKEN

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
