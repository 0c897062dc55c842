"""A look at an entry that leaves no trace: `L1.find` would mark it as used, and eviction would spare what nobody reads."""

from __future__ import annotations

from typing import NamedTuple

from b1.cache.l1 import L1
from b1.cache.segments import META, PLACE_BITS, PLACE_MASK


class Look(NamedTuple):
    """What an entry says.

    Attributes:
        is_used: it was read since it was put, as far as eviction remembers.
        reads: how often, where that is counted (values of the data cache that took a while to load); else 0.
        expires_s: end of its fresh time, on the monotonic clock.
    """

    is_used: bool
    reads: int
    expires_s: float


def look(l1: L1, name: str) -> Look | None:
    """Return what the entry says; None: it is not there, or was invalidated."""
    items = l1._items
    place = items.index.get(name)
    if place is None:
        return None
    built_on = l1.built_on(name)
    if built_on is not None and not l1.are_current(built_on):
        return None
    segment, at = items.segments[place >> PLACE_BITS], place & PLACE_MASK
    header = segment.header(at)
    meta = segment.metas.get(at) if header.flags & META else None
    return Look(bool(header.is_used), getattr(meta, "reads", 0), header.expires_s)
