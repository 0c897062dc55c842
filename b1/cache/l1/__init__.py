"""The in-process map and everything that it is made of. Nothing here knows of the shared store, or of loads."""

from b1.cache.l1.table import L1, Entry, Found

__all__ = ["L1", "Entry", "Found"]
