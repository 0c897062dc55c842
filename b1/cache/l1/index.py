"""Where each key's item lies: a dictionary in many small ones, because a large one holds up the loop when it grows.

A dictionary of 100 000 keys that grows or is copied takes milliseconds. And a dictionary never shrinks by itself: after a
large eviction the small ones are replaced one after the other.
"""

from __future__ import annotations

import sys

from b1.units import MIB

LEAST_SHARDS, MOST_SHARDS = 16, 1024
# What an item takes here: its share of the tables, which are between a third and two thirds full, and its place's integer.
ITEM_BYTES = 32 + 32
# A table over this size is too big when it takes this many times what its keys need.
_SMALL_TABLE_BYTES = 1024
_TOO_BIG = 4


class Index:
    """Places by key. Reading `shards[hash(key) & mask]` directly is allowed: it is the cache's hottest line."""

    __slots__ = ("_next", "mask", "shards")

    def __init__(self, limit_bytes: int) -> None:
        count = LEAST_SHARDS
        while count < MOST_SHARDS and count * MIB < limit_bytes:
            count *= 2
        # The list stays the same for ever; what is in it is replaced.
        self.shards: list[dict[str, int]] = [{} for _ in range(count)]
        self.mask = count - 1
        self._next = 0

    def __repr__(self) -> str:
        return f"<Index keys={len(self)} shards={len(self.shards)} table_bytes={self.table_bytes}>"

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def table_bytes(self) -> int:
        """What the tables take, without keys and places."""
        return sum(map(sys.getsizeof, self.shards))

    def get(self, key: str) -> int | None:
        return self.shards[hash(key) & self.mask].get(key)

    def put(self, key: str, place: int) -> None:
        self.shards[hash(key) & self.mask][key] = place

    def pop(self, key: str) -> int | None:
        return self.shards[hash(key) & self.mask].pop(key, None)

    def tidy(self, count: int) -> None:
        """Look at so many tables, in turn, and replace those that are far too big for what they hold."""
        for _ in range(count):
            shard = self.shards[self._next]
            if sys.getsizeof(shard) > _SMALL_TABLE_BYTES + _TOO_BIG * 24 * len(shard):
                self.shards[self._next] = dict(shard)
            self._next = (self._next + 1) & self.mask
