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
from mmap import mmap
from typing import Any

from b1.cache.l1.found import Entry, Found, L1Snapshot, Look
from b1.cache.l1.index import PAGE_BYTES, PLACE_AT, PLACES, SPREAD_BITS
from b1.cache.l1.items import item_of, unpacked
from b1.cache.l1.layout import (
    ALIGNED_BITS,
    CHECKED,
    CHECKED_AT,
    DIGEST_MASK,
    HEADER_BYTES,
    HIT,
    META,
    MOST_VECTOR_BYTES,
    OBJECT,
    PLACE_BITS,
    PLACE_MASK,
    READ,
    READ_BEFORE,
    STALE,
    STALE_AT,
    UNREAD,
    VERSIONED,
    digest_of,
    key_of,
    name_of,
)
from b1.cache.l1.policy import S3Fifo, cost
from b1.cache.l1.segments import Segment
from b1.clock import Clock
from b1.store.versions import Difference, compare
from b1.store.versions import Versions as OwnVersions
from b1.types import Versions, VersionSource

__all__ = ["L1", "Entry", "Found", "L1Snapshot"]

# What the map may always hold below the critical level, as a part of its limit: a worker that starts on a full box would
# else never cache anything, and load the database instead.
FLOOR_PART = 16
# A value that takes more than this part of the ceiling is refused.
LARGEST_PART = 8
# The part of the ceiling that a tenant may hold before it loses its second chances.
TENANT_SHARE = 0.25

# The governor's levels (b1.governor.Level), known here by their numbers because the governor is a sibling.
_NORMAL, _HIGH, _CRITICAL = 0, 2, 4

_UNPACK = HIT.unpack_from


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
        self._rows, self._mask = self._items.index.rows, self._items.index.mask
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
        # Written out: with calls it would take half as long again. The parts by name: `digest_of`, `Index.get`, `locate`.
        digest = hash(key) & DIGEST_MASK or 1
        row = self._rows[digest >> SPREAD_BITS & self._mask]
        slot = digest % PLACES
        while (seen := row[slot]) != digest:
            if not seen:
                return None
            slot = (slot + 1) % PLACES
        place: int | None = row[slot + PLACE_AT]
        try:
            name = key.encode()
        except UnicodeEncodeError:
            name = name_of(key)
        while place is not None:
            segment, at = self._segments[place >> PLACE_BITS], (place & PLACE_MASK) << ALIGNED_BITS
            data = segment.data
            state, flags, key_bytes, value_bytes, expires_s, checked = _UNPACK(data, at)
            begin = at + HEADER_BYTES + key_bytes
            if data[at + HEADER_BYTES : begin] == name:
                break
            place = self._items.index.get(digest, name)  # another key has the same digest
        else:
            return None
        end = begin + value_bytes
        is_stale = False
        if expires_s <= (now_s := self._now()):
            if expires_s + STALE.unpack_from(data, at + STALE_AT)[0] <= now_s:
                self._items.drop(digest, name, "expired")
                return None
            is_stale = True
        if flags:
            if flags & VERSIONED and checked != (changes := self._source.changes):
                match self._validated(segment, at):
                    case "same":
                        CHECKED.pack_into(data, at + CHECKED_AT, changes)
                    case "soft":
                        is_stale = True
                    case _:
                        self._items.drop(digest, name, "invalidated")
                        return None
            if flags & (OBJECT | META):
                if state != READ:
                    data[at] = READ
                value = segment.objects[at] if flags & OBJECT else data[begin:end]
                return Found(value, segment.metas.get(at), is_stale, expires_s)
        if state != READ:
            data[at] = READ
        return Found(data[begin:end], None, is_stale, expires_s)

    def _validated(self, segment: Segment, at: int) -> Difference:
        tags, vector = _built_on(segment, at)
        return compare(vector, self._source.vector(tags))

    def versions_of(self, tags: Iterable[str]) -> Versions:
        """Return the tags with their present versions: take this before a load, give it to `put` after."""
        tags = tuple(tags)
        return Versions(tags, self._source.vector(tags))

    def are_current(self, versions: Versions | tuple[()]) -> bool:
        """Say whether nothing was invalidated, hard or softly, since `versions` were taken."""
        return not versions or self._source.vector(versions[0]) == versions[1]

    def built_on(self, key: str) -> Versions | None:
        """Return what a stored entry was built on; None: it is not there, or nothing can invalidate it."""
        place = self._place(key)
        if place is None:
            return None
        segment, at = self._items.locate(place)
        return _built_on(segment, at) if segment.header(at).flags & VERSIONED else None

    def peek(self, key: str, *, marks: bool = False) -> Look | None:
        """Return what an entry says, and do not count it as a use; None: it is not there.

        It may have expired or been invalidated: that is not looked at.

        Args:
            marks: turn "read" into "read before", so that the next look sees whether it was read again.
        """
        place = self._place(key)
        if place is None:
            return None
        segment, at = self._items.locate(place)
        header = segment.header(at)
        is_read = header.state == READ
        if marks and is_read:
            segment.data[at] = READ_BEFORE
        return Look(header.state != UNREAD, is_read, header.expires_s)

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
        item = item_of(key, value, held_bytes, meta, versions, stale_s=stale_s, expires_s=expires_s, changes=changes)
        taken = cost(item)
        if taken > self._ceiling_bytes // LARGEST_PART or len(item.vector) > MOST_VECTOR_BYTES:
            self._refused += 1
            return False
        before = self._items.held_bytes
        try:
            self._items.put(item, taken, owner=owner, ceiling_bytes=self._ceiling_bytes)
        except OSError:
            # No memory to map: the value goes to who asked for it, and is not kept.
            self._refused += 1
            return False
        self._items.make_room(self._ceiling_bytes, 2 * max(taken, self._items.held_bytes - before))
        return True

    def remove(self, key: str, *, counts: bool = True) -> None:
        """Drop one entry.

        Args:
            counts: among the evictions, as invalidated.
        """
        self._items.drop(digest_of(key), name_of(key), "invalidated" if counts else None)

    def clear(self) -> None:
        """Drop everything, because everything was invalidated, what is being loaded too; the ceiling stays."""
        if self._own is not None:
            self._own.bump_all()
        self._items.clear("invalidated")

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

        Pages are back with the system on return; objects are the allocator's, which the governor's last step trims.
        What was used is spared while there is enough else, but not from the critical level on.
        """
        given = self._items.reclaim(target_bytes, spares_used=self._level < _CRITICAL)
        if self._level > _NORMAL:
            self._lower_ceiling(self.held_bytes())
        return given

    def sample(self, count: int, choose: Callable[[int], int] = random.randrange) -> list[str]:
        """Return the keys of so many entries by chance, fewer when there are not so many; reads no page twice."""
        index = self._items.index
        most = max(1, count * 2 * PAGE_BYTES // max(PAGE_BYTES, index.table_bytes))
        found: list[str] = []
        for places in index.places(choose(index.mask + 1)):
            found += [key_of(self._items.name_at(place)) for place in random.sample(places, min(len(places), most))]
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

    def _place(self, key: str) -> int | None:
        return self._items.index.get(digest_of(key), name_of(key))


def _built_on(segment: Segment, at: int) -> Versions:
    header = segment.header(at)
    tags_at = at + HEADER_BYTES + header.key_bytes + header.value_bytes
    vector_at = tags_at + header.tags_bytes
    data = segment.data
    return Versions(unpacked(data[tags_at:vector_at]), data[vector_at : vector_at + header.vector_bytes])
