"""The in-process cache: byte-bounded, one load per key, and never a value that was invalidated while it loaded."""

from b1.cache.cache import Cache, CacheSnapshot
from b1.cache.l1 import L1, Entry

__all__ = ["L1", "Cache", "CacheSnapshot", "Entry"]
