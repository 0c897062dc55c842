"""A look at an entry that is no use of it: `L1.find` would mark it as read, and eviction would spare what nobody reads.

To see whether it is read *again*, a look may turn the mark from "read" into "read before", as the kernel's idle page
tracking does with its young bit: eviction takes both for the same, and the next `find` makes it "read" once more.
"""

from __future__ import annotations

from typing import NamedTuple

from b1.cache.l1.segments import PLACE_BITS, PLACE_MASK
from b1.cache.l1.table import L1

_READ, _READ_BEFORE = 1, 2


class Look(NamedTuple):
    """What an entry says.

    Attributes:
        is_used: it was read since it was put, as far as eviction remembers.
        is_read: since the last look that marked.
        expires_s: end of its fresh time, on the monotonic clock.
    """

    is_used: bool
    is_read: bool
    expires_s: float


def look(l1: L1, name: str, *, marks: bool = False) -> Look | None:
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
    is_read = header.is_used == _READ
    if marks and is_read:
        segment.data[at] = _READ_BEFORE
    return Look(header.is_used > 0, is_read, header.expires_s)
