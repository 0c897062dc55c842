"""A look at an entry that is no use of it: `L1.find` would mark it as read, and eviction would spare what nobody reads.

To see whether it is read *again*, a look may turn the mark from "read" into "read before", as the kernel's idle page
tracking does with its young bit: eviction takes both for the same, and the next `find` makes it "read" once more.
"""

from __future__ import annotations

from b1.cache.l1.found import Look
from b1.cache.l1.table import L1

__all__ = ["Look", "look"]


def look(l1: L1, name: str, *, marks: bool = False) -> Look | None:
    """Return what the entry says; None: it is not there, or was invalidated."""
    built_on = l1.built_on(name)
    if built_on is not None and not l1.are_current(built_on):
        return None
    return l1.peek(name, marks=marks)
