"""Who was evicted lately: 16 bits of the key's digest and 16 bits of time, in a table of a fixed size.

A key that comes back while it is remembered was evicted too soon. Forgetting one, or taking one for another (1 in 8192 with
a limit of 64 MiB: a digest has 30 bits, of which the slot takes some), costs a little hit ratio and nothing else.
"""

from __future__ import annotations

from array import array

_SLOT_BYTES = 4
_TICK = 64  # additions per tick of the 16-bit time: it wraps after 4 million


class Ghost:
    """The table. `slots` is rounded up to a power of two."""

    __slots__ = ("_added", "_mask", "_table")

    def __init__(self, slots: int) -> None:
        count = 1 << max(6, (slots - 1).bit_length())
        self._table = array("I", bytes(count * _SLOT_BYTES))
        self._mask = count - 1
        self._added = _TICK

    def __repr__(self) -> str:
        return f"<Ghost slots={len(self._table)} held_bytes={self.held_bytes}>"

    @property
    def held_bytes(self) -> int:
        return len(self._table) * _SLOT_BYTES

    def add(self, digest: int) -> None:
        """Remember a key; it takes the place of another one with the same slot."""
        self._added += 1
        self._table[digest & self._mask] = digest >> 14 << 16 | (self._added // _TICK & 0xFFFF)

    def has(self, digest: int, latest: int) -> bool:
        """Say whether the key is remembered, and was one of the `latest` that were added."""
        mark = self._table[digest & self._mask]
        if mark >> 16 != digest >> 14:
            return False
        return (self._added // _TICK - mark & 0xFFFF) * _TICK <= latest + _TICK
