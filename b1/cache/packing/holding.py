"""Values that lie packed in the in-process map, and the ready form that much read ones have beside it.

Documents shrink to a quarter, so packed ones are four times as many in the same bytes; unpacking costs 11 us and 0.6 us for
each KiB (zstd makes itself a context each time, hence the 11). What is read often pays that once in a while: its ready form
is an entry of its own in the map, accounted like any other, and the first to go when nobody reads it.

A packed value is only ever looked up together with its entry, which carries time and versions; a ready form without its
entry is never served.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from mmap import mmap
from typing import Any, NamedTuple

from b1.cache.l1.found import Found, L1Snapshot, Look
from b1.cache.l1.table import L1
from b1.cache.packing.zstandard import Unreadable, Zstd
from b1.clock import Clock
from b1.types import Versions

_CRC = struct.Struct(">I")
CRC_BYTES = _CRC.size
# In front of a key; no key of ours has it (`b1.cache.names` refuses control characters).
_READY = "\x00"
_WINDOW_S = 60.0
_NAMES = 1024
# Ready forms that are in the way of others are looked for once in so many seconds.
_ROOM_EACH_S = 1.0
# With less than this part of its ceiling left, as a divisor, the map is full.
_FULL_OF = 8


def is_ready_form(name: str) -> bool:
    """Say whether an entry of the map is not one that somebody put there, but the ready form of another."""
    return name.startswith(_READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOptions:
    """How values lie in the in-process map.

    Attributes:
        enabled: False keeps all of them as they are.
        pack_from_bytes: smaller values stay as they are: unpacking 1 KiB costs as much as copying 50.
        pack_most_bytes: larger ones too: packing this much takes a millisecond at the worst (0.2 as a rule), on the loop.
        saving: the part by which a packed value is smaller at least.
        level: zstd's. 3 is what clients and Redis get too, so one frame does for all three.
        ready_reads: reads in a minute with which a packed value gets its ready form.
        ready_part: all ready forms together take this part of the ceiling at most, as a divisor; none in a full map.
    """

    enabled: bool = True
    pack_from_bytes: int = 1024
    pack_most_bytes: int = 128 * 1024
    saving: float = 1 / 3
    level: int = 3
    ready_reads: int = 8
    ready_part: int = 8

    def __post_init__(self) -> None:
        if not 0.0 < self.saving < 1.0 or self.ready_reads < 1 or self.ready_part < 1 or self.pack_from_bytes < 0:
            raise ValueError(f"{self} makes no sense: 0 < saving < 1, ready_reads and ready_part 1 or more")


@dataclass(frozen=True, slots=True)
class HoldSnapshot:
    """What lies packed.

    Attributes:
        packed_entries: that are in the map now.
        saved_bytes: that they would take more if they were not.
        ready_entries, ready_bytes: ready forms beside packed values; some of them may be gone by now.
        unpacked: how often a value was unpacked for a hit, since the start.
        damaged: packed values that were none any more; each was a miss.
    """

    packed_entries: int = 0
    saved_bytes: int = 0
    ready_entries: int = 0
    ready_bytes: int = 0
    unpacked: int = 0
    damaged: int = 0


class Tally:
    """The numbers; guarded by the event loop's thread."""

    __slots__ = ("damaged", "packed_entries", "saved_bytes", "unpacked")

    def __init__(self) -> None:
        self.packed_entries = self.saved_bytes = self.unpacked = self.damaged = 0

    def __repr__(self) -> str:
        return f"<Tally packed_entries={self.packed_entries} saved_bytes={self.saved_bytes}>"


class Saving:
    """Stands beside a packed value, and counts it for exactly as long as the map has it."""

    __slots__ = ("_saved_bytes", "_tally")

    def __init__(self, tally: Tally, saved_bytes: int) -> None:
        self._tally = tally
        self._saved_bytes = saved_bytes
        tally.packed_entries += 1
        tally.saved_bytes += saved_bytes

    def __del__(self) -> None:
        self._tally.packed_entries -= 1
        self._tally.saved_bytes -= self._saved_bytes


class _Ready(NamedTuple):
    """A ready form: its bytes, and the identity of what stands beside the entry that it is of."""

    size: int
    of: int


class HoldingMap(L1):
    """`L1` as its users see it who let it hold values packed. The entries are those of the map behind it.

    Subclasses say which entries are packed; see `find` there.
    """

    def __init__(
        self, l1: L1, clock: Clock, options: HoldOptions | None = None
    ) -> None:  # not L1's: `l1` has the state
        self.behind = l1
        self.now_s = clock.monotonic
        self.options = options or HoldOptions()
        self.tally = Tally()
        self.evictions = l1.evictions
        self._find = l1.find
        self._zstd = Zstd()
        self._ready: dict[str, _Ready] = {}
        self._ready_bytes = 0
        self._reads: dict[str, int] = {}
        self._reads_until_s = self._makes_room_from_s = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.behind!r} packed_entries={self.tally.packed_entries}>"

    def holding(self) -> HoldSnapshot:
        """Return numbers; no I/O."""
        tally = self.tally
        return HoldSnapshot(
            tally.packed_entries, tally.saved_bytes, len(self._ready), self._ready_bytes, tally.unpacked, tally.damaged
        )

    # Packing

    def frame(self, value: bytes) -> bytes | None:
        """Return the value as one frame of Zstandard; None where that does not pay."""
        options = self.options
        if not options.enabled or not options.pack_from_bytes <= len(value) <= options.pack_most_bytes:
            return None
        frame = self._zstd.compress(value, options.level)
        return frame if self.pays(frame, len(value)) else None

    def pays(self, frame: bytes, size: int) -> bool:
        """Say whether a value of that size should lie here as this frame."""
        options = self.options
        return (
            options.enabled
            and options.pack_from_bytes <= size <= options.pack_most_bytes
            and len(frame) <= size * (1.0 - options.saving)
        )

    def unpacked(self, key: str, found: Found, frame: bytes, size: int) -> bytes | None:
        """Return the value of a packed entry; None when it is none any more: then the entry is gone."""
        known = self._ready.get(key)
        if known is not None and known.of == id(found.meta):
            ready = self._find(_READY + key)
            if ready is not None and len(ready.value) == size:
                value: bytes = ready.value
                return value
            self.forget_ready(key)
        try:
            value = self._zstd.decompress(frame, size)
        except Unreadable:
            self.damaged(key)
            return None
        self.tally.unpacked += 1
        now_s = self.now_s()
        if self._count(key, now_s) >= self.options.ready_reads and not found.is_stale:
            self._make_ready(key, value, found, now_s)
        return value

    def damaged(self, key: str) -> None:
        """Drop an entry that is none."""
        self.tally.damaged += 1
        self.remove(key)

    # Ready forms

    def _count(self, key: str, now_s: float) -> int:
        """Count a read; return how many there were in this minute. What comes after 1024 names is not counted."""
        reads = self._reads
        if now_s >= self._reads_until_s:
            reads.clear()
            self._reads_until_s = now_s + _WINDOW_S
        count = reads.get(key, 0) + 1
        if count > 1 or len(reads) < _NAMES:
            reads[key] = count
        return count

    def _make_ready(self, key: str, value: bytes, found: Found, now_s: float) -> None:
        self._reads.pop(key, None)
        if found.expires_s <= now_s or key in self._ready or not self._has_room(len(value), now_s):
            return
        present = self._find(key)
        if present is None or present.meta is not found.meta:
            return  # found a while ago, and replaced since
        versions = self.behind.built_on(key) or ()
        if self.behind.put(_READY + key, value, ttl_s=found.expires_s - now_s, versions=versions):
            self._ready[key] = _Ready(len(value), id(found.meta))
            self._ready_bytes += len(value)

    def _has_room(self, size: int, now_s: float) -> bool:
        """Say whether one more may be ready. One that is not read any more gives way in time.

        Not at once: what is dropped leaves its bytes behind until the map passes over them, so that turning over
        quickly would cost more room than it gives.
        """
        limit_bytes = self.ceiling_bytes // self.options.ready_part
        if size > limit_bytes or self._is_full():
            return False
        if self._ready_bytes + size <= limit_bytes:
            return True
        if now_s < self._makes_room_from_s:
            return False
        self._makes_room_from_s = now_s + _ROOM_EACH_S
        self.forget_ready(next(iter(self._ready)))
        return self._ready_bytes + size <= limit_bytes

    def _is_full(self) -> bool:
        return self.behind.held_bytes() * _FULL_OF > self.behind.ceiling_bytes * (_FULL_OF - 1)

    def before_put(self, key: str) -> None:
        """Drop the ready form of what is replaced, and one more where the map has a better use for its room.

        A ready form spares 20 us with each read, and what it displaces is a query: so there are none in a full map.
        """
        ready = self._ready
        if key in ready:
            self.forget_ready(key)
        if ready and self._is_full():
            self.forget_ready(next(iter(ready)))

    def forget_ready(self, key: str) -> None:
        """Drop the ready form of an entry, if it has one."""
        known = self._ready.pop(key, None)
        if known is not None:
            self._ready_bytes -= known.size
            self.behind.remove(_READY + key, counts=False)

    # The map behind

    def __len__(self) -> int:
        return len(self.behind)

    @property
    def changes(self) -> int:
        return self.behind.changes

    @property
    def ceiling_bytes(self) -> int:
        return self.behind.ceiling_bytes

    def held_bytes(self) -> int:
        return self.behind.held_bytes()

    def get(self, key: str) -> Found | None:
        found = self.find(key)
        return found if found is not None and not found.is_stale else None

    def versions_of(self, tags: Iterable[str]) -> Versions:
        return self.behind.versions_of(tags)

    def are_current(self, versions: Versions | tuple[()]) -> bool:
        return self.behind.are_current(versions)

    def built_on(self, key: str) -> Versions | None:
        return self.behind.built_on(key)

    def peek(self, key: str, *, marks: bool = False) -> Look | None:
        return self.behind.peek(key, marks=marks)

    def remove(self, key: str, *, counts: bool = True) -> None:
        self.forget_ready(key)
        self.behind.remove(key, counts=counts)

    def clear(self) -> None:
        self._ready.clear()
        self._ready_bytes = 0
        self.behind.clear()

    def invalidate(self, tags: Iterable[str]) -> None:
        self.behind.invalidate(tags)

    def set_level(self, level: int) -> None:
        self.behind.set_level(level)

    def reclaim(self, target_bytes: int) -> int:
        return self.behind.reclaim(target_bytes)

    def sample(self, count: int, choose: Callable[[int], int] | None = None) -> list[str]:
        names = self.behind.sample(count) if choose is None else self.behind.sample(count, choose)
        return [name for name in names if not name.startswith(_READY)]

    def maps(self) -> list[mmap]:
        return self.behind.maps()

    def snapshot(self) -> L1Snapshot:
        return self.behind.snapshot()


def with_crc(data: bytes) -> bytes:
    """Return what lies in the map for packed bytes: their CRC-32, and them."""
    return _CRC.pack(zlib.crc32(data)) + data


def checked(held: Any) -> bytes | None:
    """Return the bytes of `with_crc`; None when they are others."""
    if type(held) is not bytes or len(held) < CRC_BYTES:
        return None
    data = held[CRC_BYTES:]
    return data if _CRC.unpack_from(held)[0] == zlib.crc32(data) else None
