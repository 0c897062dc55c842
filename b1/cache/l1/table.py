"""The in-process map: bounded by what its entries really take, S3-FIFO over memory that returns to the system.

An entry knows the versions of its tags when its load began. A version only grows, so an entry is good while every version
it was built on is still the newest: an invalidation is one increment per tag, however many entries carry it, and what is
stale is dropped when it is next looked at or evicted. While nothing at all was invalidated, a hit compares one number.

A `bytes` value under 128 KiB lies in a segment (`b1.cache.l1.segments`); each hit is a copy. Anything else stays the
object that it is, and a hit returns that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from b1.cache.l1.items import item_of, unpacked
from b1.cache.l1.policy import S3Fifo, cost
from b1.cache.l1.segments import (
    CHECKED,
    CHECKED_AT,
    HEADER,
    HEADER_BYTES,
    META,
    MOST_VECTOR_BYTES,
    OBJECT,
    PLACE_BITS,
    PLACE_MASK,
    VERSIONED,
)
from b1.clock import Clock
from b1.store.versions import Difference, compare
from b1.store.versions import Versions as OwnVersions
from b1.types import Versions, VersionSource

# What the map may always hold below the critical level, as a part of its limit: a worker that starts on a full box would
# else never cache anything, and load the database instead.
FLOOR_PART = 16
# A value that takes more than this part of the ceiling is refused.
LARGEST_PART = 8
# The part of the ceiling that a tenant may hold before it loses its second chances.
TENANT_SHARE = 0.25

# The governor's levels (b1.governor.Level), known here by their numbers because the governor is a sibling.
_NORMAL, _HIGH, _CRITICAL = 0, 2, 4

_UNPACK = HEADER.unpack_from


class Found:
    """A stored value, as it was put.

    Attributes:
        value: opaque here; bytes may be a copy.
        meta: the small object that was put beside it.
        is_stale: its fresh time is over, or one of its tags was softly invalidated.
        expires_s: when its fresh time is over, on the monotonic clock.
    """

    __slots__ = ("expires_s", "is_stale", "meta", "value")

    def __init__(self, value: Any, meta: Any, is_stale: bool, expires_s: float) -> None:
        self.value = value
        self.meta = meta
        self.is_stale = is_stale
        self.expires_s = expires_s

    def __repr__(self) -> str:
        return f"<Found is_stale={self.is_stale} expires_s={self.expires_s}>"


Entry = Found


@dataclass(frozen=True, slots=True)
class L1Snapshot:
    """What the map says about itself, in bytes.

    Attributes:
        held_bytes: accounted: touched pages, keys, index, objects, and what remembers evicted keys.
        resident_bytes: touched pages of the segments alone.
        small_bytes: what waits in the small queue for its first use.
        returned_bytes: pages given back to the system since the start.
        refused: values that were too large, or came when the system had no memory to map.
        tenants: those that hold the most, with their bytes; at most ten.
    """

    entries: int
    held_bytes: int
    limit_bytes: int
    ceiling_bytes: int
    resident_bytes: int
    segments: int
    small_bytes: int
    returned_bytes: int
    refused: int
    evictions: dict[str, int]
    tenants: tuple[tuple[str, int], ...]


class L1:
    """The map. Synchronous and single-threaded: only the event loop's thread may touch it.

    Args:
        limit_bytes: accounted bytes that are held at most.
        versions: the versions of tags; None: a table of its own, which only `invalidate` changes.
        tenant_share: the part of the ceiling that one `owner` may hold before it loses its second chances.
    """

    name = "cache.l1"
    priority = 10

    def __init__(
        self,
        limit_bytes: int,
        clock: Clock,
        *,
        versions: VersionSource | None = None,
        tenant_share: float = TENANT_SHARE,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._ceiling_bytes = limit_bytes
        self._level = _NORMAL
        self._now = clock.monotonic
        self._own = OwnVersions() if versions is None else None
        self._source: VersionSource = self._own if versions is None else versions  # type: ignore[assignment]
        self._items = S3Fifo(limit_bytes, tenant_share=tenant_share)
        self._shards, self._mask = self._items.index.shards, self._items.index.mask
        self._segments = self._items.segments
        self._refused = 0
        self.evictions = self._items.evictions

    def __repr__(self) -> str:
        return f"<L1 entries={len(self)} held_bytes={self.held_bytes()} ceiling_bytes={self._ceiling_bytes}>"

    def __len__(self) -> int:
        return self._items.live

    @property
    def changes(self) -> int:
        """While this stands still, nothing was invalidated as far as this process knows: what was found is still good."""
        return self._source.changes

    @property
    def ceiling_bytes(self) -> int:
        """What may be held at the present level of memory pressure; the limit at the normal one."""
        return self._ceiling_bytes

    def held_bytes(self) -> int:
        """Return accounted bytes."""
        return self._items.held_bytes

    def get(self, key: str) -> Found | None:
        """Return the entry if it is fresh and none of its tags was invalidated since its load began."""
        found = self.find(key)
        return found if found is not None and not found.is_stale else None

    def find(self, key: str) -> Found | None:
        """Return the entry, also when it is stale: softly invalidated, or past its fresh time by less than `stale_s`."""
        place = self._shards[hash(key) & self._mask].get(key)
        if place is None:
            return None
        segment = self._segments[place >> PLACE_BITS]
        at = place & PLACE_MASK
        data = segment.data
        is_used, flags, vector_bytes, tags_bytes, value_bytes, _, _, stale_s, expires_s, checked = _UNPACK(data, at)
        is_stale = False
        if expires_s <= (now_s := self._now()):
            if expires_s + stale_s <= now_s:
                self._items.drop(key, "expired")
                return None
            is_stale = True
        begin = at + HEADER_BYTES
        end = begin + value_bytes
        if checked != (changes := self._source.changes) and flags & VERSIONED:
            match self._validated(data, end, end + tags_bytes, end + tags_bytes + vector_bytes):
                case "same":
                    CHECKED.pack_into(data, at + CHECKED_AT, changes)
                case "soft":
                    is_stale = True
                case _:
                    self._items.drop(key, "invalidated")
                    return None
        if is_used != 1:  # 2: read before the last look of `b1.cache.warming`
            data[at] = 1
        if flags & (OBJECT | META):
            value = segment.objects[at] if flags & OBJECT else data[begin:end]
            return Found(value, segment.metas.get(at), is_stale, expires_s)
        return Found(data[begin:end], None, is_stale, expires_s)

    def _validated(self, data: mmap, tags_at: int, vector_at: int, end: int) -> Difference:
        tags = unpacked(data[tags_at:vector_at])
        return compare(data[vector_at:end], self._source.vector(tags))

    def versions_of(self, tags: Iterable[str]) -> Versions:
        """Return the tags with their present versions: take this before a load, give it to `put` after."""
        tags = tuple(tags)
        return Versions(tags, self._source.vector(tags))

    def are_current(self, versions: Versions | tuple[()]) -> bool:
        """Say whether nothing was invalidated, hard or softly, since `versions` were taken."""
        return not versions or self._source.vector(versions[0]) == versions[1]

    def built_on(self, key: str) -> Versions | None:
        """Return what a stored entry was built on; None: it is not there, or nothing can invalidate it."""
        place = self._items.index.get(key)
        if place is None:
            return None
        segment, at = self._segments[place >> PLACE_BITS], place & PLACE_MASK
        header = segment.header(at)
        if not header.flags & VERSIONED:
            return None
        tags_at = at + HEADER_BYTES + header.value_bytes
        vector_at = tags_at + header.tags_bytes
        data = segment.data
        return Versions(unpacked(data[tags_at:vector_at]), data[vector_at : vector_at + header.vector_bytes])

    def put(
        self,
        key: str,
        value: Any,
        held_bytes: int | None = None,
        *,
        ttl_s: float,
        versions: Versions | tuple[()],
        stale_s: float = 0.0,
        meta: Any = None,
        owner: str = "",
    ) -> bool:
        """Store `value`; say whether it was stored.

        Not stored is what takes more than an eighth of the ceiling, what was invalidated since `versions` were
        taken, and everything while the system has no memory to give.

        Args:
            held_bytes: what an object takes, or what bytes are accounted at in the least; None: it is counted.
            ttl_s: fresh for so long.
            versions: from `versions_of`, taken before the load; ``()``: nothing can invalidate it.
            stale_s: after its fresh time it can still be found, as stale, for so long.
            meta: a small object that comes back with the value; counted.
            owner: the tenant whose share it counts for; empty: nobody's.
        """
        changes = self._source.changes
        if not self.are_current(versions):
            return False
        expires_s = self._now() + ttl_s
        item = item_of(value, held_bytes, meta, versions, stale_s=stale_s, expires_s=expires_s, changes=changes)
        taken = cost(key, item)
        if taken > self._ceiling_bytes // LARGEST_PART or len(item.vector) > MOST_VECTOR_BYTES:
            self._refused += 1
            return False
        before = self._items.held_bytes
        try:
            self._items.put(key, item, taken, owner=owner, ceiling_bytes=self._ceiling_bytes)
        except OSError:
            # No memory to map: the value goes to who asked for it, and is not kept.
            self._refused += 1
            return False
        self._items.make_room(self._ceiling_bytes, 2 * max(taken, self._items.held_bytes - before))
        return True

    def remove(self, key: str) -> None:
        """Drop one entry."""
        self._items.drop(key, "invalidated")

    def clear(self) -> None:
        """Drop everything, because everything was invalidated; the ceiling stays."""
        self._items.clear()

    def invalidate(self, tags: Iterable[str]) -> None:
        """Make every entry stale that carries one of the tags, also those whose load is still running.

        Where the versions come from a store, it is the store that must be told.
        """
        if self._own is not None:
            self._own.bump(tuple(tags))

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
        self._lower_ceiling(min(most, self.held_bytes()))

    def reclaim(self, target_bytes: int) -> int:
        """Evict until `target_bytes` are given up or nothing is left; return the accounted bytes given up.

        Pages are back with the system on return; keys and index are the allocator's, which the governor's last step trims.
        What was used is spared while there is enough else, but not from the critical level on.
        """
        given = self._items.reclaim(target_bytes, spares_used=self._level < _CRITICAL)
        if self._level > _NORMAL:
            self._lower_ceiling(self.held_bytes())
        return given

    def sample(self, count: int, choose: Callable[[int], int] = random.randrange) -> list[str]:
        """Return the keys of so many entries by chance, fewer when there are not so many; reads no table twice."""
        shards = self._shards
        found: list[str] = []
        first = choose(len(shards))
        for number in range(len(shards)):
            keys = list(shards[(first + number) & self._mask])
            found += random.sample(keys, min(len(keys), max(1, count * 2 // len(shards))))
            if len(found) >= count:
                break
        return found[:count]

    def maps(self) -> list[mmap]:
        """Return the maps of the segments, for measuring what they really hold."""
        return [segment.data for segment in self._segments.values()]

    def snapshot(self) -> L1Snapshot:
        """Return numbers; no I/O."""
        items = self._items
        return L1Snapshot(
            entries=items.live,
            held_bytes=items.held_bytes,
            limit_bytes=self._limit_bytes,
            ceiling_bytes=self._ceiling_bytes,
            resident_bytes=items.resident_bytes,
            segments=len(items.segments),
            small_bytes=items.small_bytes,
            returned_bytes=items.returned_bytes,
            refused=self._refused,
            evictions=dict(self.evictions),
            tenants=items.tenants.largest(10),
        )

    def _lower_ceiling(self, ceiling_bytes: int) -> None:
        floor_bytes = 0 if self._level >= _CRITICAL else self._limit_bytes // FLOOR_PART
        self._ceiling_bytes = max(floor_bytes, min(self._ceiling_bytes, ceiling_bytes))
