"""A byte-bounded map, least recently used first out. An entry knows the versions of its tags when its load began.

A tag's version only grows. An entry is good while every version it was built on is still the newest: an invalidation is
one increment per tag, however many entries carry it, and what is stale is dropped when it is next looked at or evicted.

Under memory pressure the map has a ceiling below its limit, and a dictionary never shrinks by itself: after a large
eviction the entries move to a new table, a few at a time, because moving forty thousand at once holds the loop for 6 ms.
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

# What the map may always hold below the critical level, as a part of its limit: a worker that starts on a full box would
# else never cache anything, and load the database instead.
FLOOR_PART = 16

# The governor's levels (b1.governor.Level), known here by their numbers because the governor is a sibling.
_NORMAL, _HIGH, _CRITICAL = 0, 2, 4

# A table made for this many times the entries that are left is replaced. Entries moved at each put and at each slice of
# a reclaim: 0.4 us each.
TABLE_TOO_BIG = 4
TABLE_WORTH_IT = 1024
MOVED_PER_PUT, MOVED_PER_SLICE = 16, 500
# Tags that are remembered for a successor; with more, it drops everything.
MOST_NOTED = 4096

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
    """The map. Synchronous and single-threaded: only the event loop's thread may touch it.

    Args:
        limit_bytes: accounted bytes that are held at most.
    """

    name = "cache.l1"
    priority = 10

    def __init__(self, limit_bytes: int, clock: Clock) -> None:
        self._limit_bytes = limit_bytes
        self._ceiling_bytes = limit_bytes
        self._level = _NORMAL
        self._clock = clock
        # `_aged` is the table that is being left: each of its entries is older than each of `_entries`.
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._aged: OrderedDict[str, Entry] = OrderedDict()
        self._table_entries = 0
        self._versions: dict[str, int] = {}
        self._newest = 0
        self._held_bytes = 0
        self._noted: dict[str, None] | None = None
        self.evictions: dict[str, int] = {"size": 0, "expired": 0, "invalidated": 0, "pressure": 0}

    def __repr__(self) -> str:
        return f"<L1 entries={len(self)} held_bytes={self._held_bytes} ceiling_bytes={self._ceiling_bytes}>"

    def __len__(self) -> int:
        return len(self._entries) + len(self._aged)

    @property
    def ceiling_bytes(self) -> int:
        """What may be held at the present level of memory pressure; the limit at the normal one."""
        return self._ceiling_bytes

    def get(self, key: str) -> Entry | None:
        """Return the entry if it is fresh and none of its tags was invalidated since its load began."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._come_back(key)
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
        if cost > self._ceiling_bytes // 8 or not self.are_current(versions):
            return False
        old = self._entries.pop(key, None) or self._aged.pop(key, None)
        if old is not None:
            self._held_bytes -= old.held_bytes
        self._entries[key] = Entry(value, cost, self._clock.monotonic() + ttl_s, versions)
        self._held_bytes += cost
        self._table_entries = max(self._table_entries, len(self._entries))
        self._make_room(cost)
        if self._aged:
            self._move(MOVED_PER_PUT)
        return True

    def invalidate(self, tags: Iterable[str]) -> None:
        """Make every entry stale that carries one of the tags, also those whose load is still running."""
        for tag in tags:
            if self._noted is not None and len(self._noted) <= MOST_NOTED:
                self._noted[tag] = None
            if tag in self._versions:
                self._newest += 1
                self._versions[tag] = self._newest

    def note_invalidations(self) -> None:
        """From now on remember the tags that are invalidated: a successor has entries of its own by now."""
        self._noted = {}

    def noted_invalidations(self) -> list[str] | None:
        """Return the tags invalidated since `note_invalidations`; None when they were too many to remember."""
        noted = self._noted or {}
        return list(noted) if len(noted) <= MOST_NOTED else None

    def remove(self, key: str) -> None:
        """Drop one entry."""
        if key in self._entries or key in self._aged:
            self._drop(key, "invalidated")

    def held_bytes(self) -> int:
        """Return accounted bytes."""
        return self._held_bytes

    def set_level(self, level: int) -> None:
        """Answer a level of memory pressure, by its number; O(1), the governor evicts through `reclaim`.

        From elevated on new entries only displace old ones, from high on at most half of the limit is held, and what a
        reclaim took does not grow back; a sixteenth of the limit may always be held below critical. The normal level
        restores the limit.
        """
        self._level = level
        if level <= _NORMAL:
            self._ceiling_bytes = self._limit_bytes
            return
        most = self._limit_bytes // 2 if level >= _HIGH else self._limit_bytes
        self._lower_ceiling(min(most, self._held_bytes))

    def reclaim(self, target_bytes: int) -> int:
        """Evict the least recently used until `target_bytes` are given up or nothing is left."""
        before = self._held_bytes
        while self._held_bytes and before - self._held_bytes < target_bytes:
            self._drop(self._oldest(), "pressure")
        if self._level > _NORMAL:
            self._lower_ceiling(self._held_bytes)
        self._renew_table()
        return before - self._held_bytes

    def _lower_ceiling(self, ceiling_bytes: int) -> None:
        floor_bytes = 0 if self._level >= _CRITICAL else self._limit_bytes // FLOOR_PART
        self._ceiling_bytes = max(floor_bytes, min(self._ceiling_bytes, ceiling_bytes))

    def _make_room(self, cost: int) -> None:
        """Evict down to the ceiling, at most twice what came: a ceiling that fell far must not hold up one request."""
        enough = max(0, self._held_bytes - 2 * cost)
        while self._held_bytes > self._ceiling_bytes and self._held_bytes > enough:
            self._drop(self._oldest(), "size")

    def _oldest(self) -> str:
        return next(iter(self._aged or self._entries))

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
        entry = self._entries.pop(key, None) or self._aged.pop(key)
        self._held_bytes -= entry.held_bytes
        self.evictions[cause] += 1

    # The table

    def _come_back(self, key: str) -> Entry | None:
        """Find an entry in the table that is being left, and move it: it is about to be the newest."""
        entry = self._aged.pop(key, None) if self._aged else None
        if entry is not None:
            self._entries[key] = entry
        return entry

    def _renew_table(self) -> None:
        """Leave a table that is far too big for what it holds."""
        if not self._aged and self._table_entries > TABLE_WORTH_IT + TABLE_TOO_BIG * len(self._entries):
            self._aged, self._entries, self._table_entries = self._entries, OrderedDict(), 0
        self._move(MOVED_PER_SLICE)

    def _move(self, count: int) -> None:
        """Move entries to the new table, the newest first, each before those that are there already."""
        for _ in range(min(count, len(self._aged))):
            key, entry = self._aged.popitem()
            self._entries[key] = entry
            self._entries.move_to_end(key, last=False)
        self._table_entries = max(self._table_entries, len(self._entries))
        if not self._aged:
            self._aged = OrderedDict()
