"""Memory kept only to be given up: at the last level it makes room for the steps that need some themselves.

Anonymous private pages that have been touched. A `bytearray` of this size would do as well until malloc decides to keep
it; closing a mapping always gives the pages back.
"""

from __future__ import annotations

import mmap

from b1.units import MIB

BALLAST_BYTES = 8 * MIB


class Ballast:
    """Held or not; both directions are idempotent."""

    def __init__(self, size_bytes: int = BALLAST_BYTES) -> None:
        self._size_bytes = size_bytes
        self._pages: mmap.mmap | None = None

    def __repr__(self) -> str:
        return f"<Ballast held_bytes={self.held_bytes}>"

    @property
    def held_bytes(self) -> int:
        """What is held now."""
        return self._size_bytes if self._pages is not None else 0

    def take(self) -> None:
        """Hold the memory; 2 ms."""
        if self._pages is not None or self._size_bytes == 0:
            return
        pages = mmap.mmap(-1, self._size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, self._size_bytes, mmap.PAGESIZE):
            pages[offset] = 1  # an untouched page is a promise, not memory
        self._pages = pages

    def release(self) -> int:
        """Give the memory to the system; return how much it was."""
        released = self.held_bytes
        if self._pages is not None:
            self._pages.close()
            self._pages = None
        return released
