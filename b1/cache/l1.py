"""A byte-bounded map, least recently used first out. An entry knows the versions of its tags when its load began.

A tag's version only grows. An entry is good while every version it was built on is still the newest: an invalidation is
one increment per tag, however many entries carry it, and what is stale is dropped when it is next looked at or evicted.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from b1.clock import Clock
from b1.types import Versions

# What an entry costs beside its key and value: the entry itself, its place in the map, the versions' tuple (measured).
ENTRY_OVERHEAD_BYTES = 400

# Versions are kept for this many tags; past it, all are forgotten at once and with them every entry that carries a tag.
TAG_LIMIT = 20_000


class Entry:
    """One stored value. `value` is opaque here; `held_bytes` is what it is accounted at."""

    __slots__ = ("expires_s", "held_bytes", "value", "versions")

    def __init__(self, value: Any, held_bytes: int, expires_s: float, versions: Versions) -> None:
        self.value = value
        self.held_bytes = held_bytes
        self.expires_s = expires_s
        self.versions = versions


class L1:
    """The map. Synchronous and single-threaded: only the event loop's thread may touch it."""

    name = "cache.l1"
    priority = 10

    def __init__(self, limit_bytes: int, clock: Clock) -> None:
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._versions: dict[str, int] = {}
        self._newest = 0
        self._held_bytes = 0
        self.evictions: dict[str, int] = {"size": 0, "expired": 0, "invalidated": 0, "pressure": 0}

    def __repr__(self) -> str:
        return f"<L1 entries={len(self._entries)} held_bytes={self._held_bytes} limit_bytes={self._limit_bytes}>"

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """Return the entry if it is fresh and none of its tags was invalidated since its load began."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_s <= self._clock.monotonic():
            self._drop(key, "expired")
            return None
        versions = self._versions
        for tag, version in entry.versions:
            if versions.get(tag) != version:
                self._drop(key, "invalidated")
                return None
        self._entries.move_to_end(key)
        return entry

    def versions_of(self, tags: Iterable[str]) -> Versions:
        """Return the tags with their present versions: take this before a load, give it to `put` after."""
        return tuple((tag, self._version(tag)) for tag in tags)

    def are_current(self, versions: Versions) -> bool:
        """Say whether nothing was invalidated since `versions` were taken."""
        return all(self._versions.get(tag) == version for tag, version in versions)

    def put(self, key: str, value: Any, held_bytes: int, *, ttl_s: float, versions: Versions) -> bool:
        """Store `value` unless a tag was invalidated since `versions` were taken; refuse an eighth of the map or more."""
        cost = held_bytes + sys.getsizeof(key) + ENTRY_OVERHEAD_BYTES
        if cost > self._limit_bytes // 8 or not self.are_current(versions):
            return False
        old = self._entries.pop(key, None)
        if old is not None:
            self._held_bytes -= old.held_bytes
        self._entries[key] = Entry(value, cost, self._clock.monotonic() + ttl_s, versions)
        self._held_bytes += cost
        while self._held_bytes > self._limit_bytes:
            self._drop(next(iter(self._entries)), "size")
        return True

    def invalidate(self, tags: Iterable[str]) -> None:
        """Make every entry stale that carries one of the tags, also those whose load is still running."""
        for tag in tags:
            if tag in self._versions:
                self._newest += 1
                self._versions[tag] = self._newest

    def remove(self, key: str) -> None:
        """Drop one entry."""
        if key in self._entries:
            self._drop(key, "invalidated")

    def held_bytes(self) -> int:
        """Return accounted bytes."""
        return self._held_bytes

    def reclaim(self, target_bytes: int) -> int:
        """Evict the least recently used until `target_bytes` are given up or nothing is left."""
        before = self._held_bytes
        while self._entries and before - self._held_bytes < target_bytes:
            self._drop(next(iter(self._entries)), "pressure")
        return before - self._held_bytes

    def _version(self, tag: str) -> int:
        version = self._versions.get(tag)
        if version is None:
            if len(self._versions) >= TAG_LIMIT:
                # Forgetting all versions makes every tagged entry stale: safe, and bounded in memory.
                self._versions.clear()
            self._newest += 1
            version = self._versions[tag] = self._newest
        return version

    def _drop(self, key: str, cause: str) -> None:
        self._held_bytes -= self._entries.pop(key).held_bytes
        self.evictions[cause] += 1
