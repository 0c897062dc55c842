"""Values of the data cache in the in-process map: large ones packed, and unpacked where they are found.

Readers see none of it: what `find` returns is the value as it was put. One that is damaged was never there.
"""

from __future__ import annotations

import math
from typing import Any

from b1.cache.l1.table import Found
from b1.cache.packing.holding import HoldingMap, Saving, checked, with_crc
from b1.cache.reading.values import ERROR, Meta
from b1.types import Versions

# What `PackedMeta` takes: itself, two times, two numbers, what counts it; and with its place in the map.
_META_BYTES, _WITH_PLACE_BYTES = 290, 390


class PackedMeta(Meta):
    """What stands beside a packed value; `size`: of the value."""

    __slots__ = ("saving", "size")

    def __init__(self, meta: Meta | None, size: int, saving: Saving) -> None:
        super().__init__(math.inf, 0.0, 0, 0)
        if meta is not None:
            self.early_from_s, self.delta_s = meta.early_from_s, meta.delta_s
            self.created_ms, self.flags = meta.created_ms, meta.flags
        self.size = size
        self.saving = saving

    def held_bytes(self) -> int:
        """Return what it takes with its numbers, and what counts it."""
        return _META_BYTES


class ValueMap(HoldingMap):
    """The map as the data cache sees it."""

    def find(self, key: str) -> Found | None:
        """Return the entry, also when it is stale; see `L1.find`."""
        found = self._find(key)
        if found is None:
            if key in self._ready:
                self.forget_ready(key)
            return None
        meta = found.meta
        if type(meta) is PackedMeta:
            frame = checked(found.value)
            if frame is None:
                self.damaged(key)
                return None
            found.value = self.unpacked(key, found, frame, meta.size)
            if found.value is None:
                return None
        return found

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
        """Store a value, packed if that pays; see `L1.put`."""
        self.before_put(key)
        if type(value) is bytes and held_bytes is None and (meta is None or not meta.flags & ERROR):
            frame = self.frame(value)
            if frame is not None:
                saved_bytes = len(value) - len(frame) - (_WITH_PLACE_BYTES if meta is None else 0)
                if saved_bytes > 0:
                    meta = PackedMeta(meta, len(value), Saving(self.tally, saved_bytes))
                    value = with_crc(frame)
        return self.behind.put(
            key, value, held_bytes, ttl_s=ttl_s, versions=versions, stale_s=stale_s, meta=meta, owner=owner
        )
