"""Cached values of one process, each with the versions it was built on, and who is loading what is not there.

Least recently used first out; an entry of an eighth of the room or more is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from b1.store.base import CacheAnswer, CacheRead, CacheState
from b1.store.versions import Versions, compare

# The tuple with its integers, bytes headers, the string and the place in the map (measured).
ENTRY_BYTES = 512
_LEASES = 1024


class _Entry(NamedTuple):
    value: bytes
    tags: tuple[str, ...]
    vector: bytes
    fresh_until_ms: int
    until_ms: int


class Entries:
    """A bounded table of cached values; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes, of entries alone: the versions' table of 64 KiB and at most 1024 leases come on
            top.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held_bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.versions = Versions()
        # The vector of the load and when its lease ends. A lease on an old vector is none: its value would be refused.
        self._leases: dict[str, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Entries(keys={len(self._entries)}, held={self._held_bytes}/{self.limit_bytes} B)"

    @property
    def held_bytes(self) -> int:
        return self._held_bytes + self.versions.held_bytes

    def read(self, read: CacheRead, now_ms: int) -> CacheAnswer:
        """Return the value, or the lease to load it, or who has that."""
        vector = self.versions.vector(read.tags)
        if read.held is not None and read.held == vector:
            return CacheAnswer(CacheState.CURRENT, None, 0, vector)
        if read.key is None:
            return CacheAnswer(CacheState.MISS, None, 0, vector)
        entry, is_fresh = self._servable(read.key, now_ms)
        if entry is not None and is_fresh:
            left_ms, fresh_ms = entry.until_ms - now_ms, entry.fresh_until_ms - now_ms
            return CacheAnswer(CacheState.HIT, entry.value, left_ms, vector, fresh_ms)
        other = self._leases.get(read.key)
        lease_ms = other[1] - now_ms if other is not None and other[0] == vector else 0
        is_free = bool(read.lease_ms) and lease_ms <= 0
        if is_free:
            self._lease(read.key, vector, now_ms + read.lease_ms)
        if entry is not None:
            return CacheAnswer(CacheState.STALE, entry.value, entry.until_ms - now_ms, vector, 0, is_free)
        if is_free:
            return CacheAnswer(CacheState.LEASED, None, 0, vector)
        if not read.lease_ms:
            return CacheAnswer(CacheState.MISS, None, 0, vector)
        return CacheAnswer(CacheState.LOADING, None, lease_ms, vector)

    def store(
        self,
        key: str,
        value: bytes | None,
        tags: tuple[str, ...],
        vector: bytes,
        *,
        ttl_ms: int,
        now_ms: int,
        fresh_ms: int | None = None,
    ) -> bool:
        """Keep `value` if nothing moved since `vector`, and end the lease that was taken with it."""
        lease = self._leases.get(key)
        if lease is not None and lease[0] == vector:
            del self._leases[key]
        if value is None or self.versions.vector(tags) != vector:
            return False
        size = _size(key, value, tags)
        if size > self.limit_bytes // 8:
            return False
        if key in self._entries:
            self._drop(key)
        fresh_ms = ttl_ms if fresh_ms is None else min(fresh_ms, ttl_ms)
        self._entries[key] = _Entry(value, tags, vector, now_ms + fresh_ms, now_ms + ttl_ms)
        self._held_bytes += size
        while self._held_bytes > self.limit_bytes:
            self._drop(next(iter(self._entries)))
        return True

    def invalidate(self, tags: Sequence[str] | None, soft: Sequence[str] = ()) -> None:
        """Make stale what depends on the tags; None: everything, and its room is free at once."""
        if tags is not None:
            self.versions.bump(tags, soft)
            return
        self.versions.bump_all()
        self._entries.clear()
        self._leases.clear()
        self._held_bytes = 0

    def _servable(self, key: str, now_ms: int) -> tuple[_Entry | None, bool]:
        """Return the entry, if it may be served at all, and whether it is fresh."""
        entry = self._entries.get(key)
        if entry is None:
            return None, False
        difference = compare(entry.vector, self.versions.vector(entry.tags))
        if entry.until_ms <= now_ms or difference == "hard":
            self._drop(key)
            return None, False
        self._entries.move_to_end(key)
        return entry, difference == "same" and entry.fresh_until_ms > now_ms

    def _lease(self, key: str, vector: bytes, until_ms: int) -> None:
        if key not in self._leases and len(self._leases) >= _LEASES:
            del self._leases[next(iter(self._leases))]  # at worst its value is loaded twice
        self._leases[key] = (vector, until_ms)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._held_bytes -= _size(key, entry.value, entry.tags)


def _size(key: str, value: bytes, tags: tuple[str, ...]) -> int:
    return ENTRY_BYTES + len(key) + len(value) + sum(64 + len(tag) for tag in tags)
