"""Versions of tags, without a memory of tags: every tag falls into one of many buckets, and a bucket has a version.

What depends on a tag is current while the bucket's version is the one it was built on. Two tags in one bucket invalidate
each other's entries: too much is thrown away, never too little. The epoch is random and changes when versions are lost
or everything is invalidated, so a version that comes again can never be mistaken for the old one.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

EPOCH_BYTES = 8
VERSION_BYTES = 4
REDIS_BUCKETS = 65_536
MEMORY_BUCKETS = 16_384


@lru_cache(maxsize=4096)
def bucket_of(tag: str, buckets: int) -> int:
    """Return the bucket of a tag; the same in every process."""
    digest = blake2b(tag.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % buckets


def new_epoch() -> bytes:
    """Return an epoch that was never used."""
    return os.urandom(EPOCH_BYTES)


class Versions:
    """The versions of one process. The table of 64 KiB is made when the first tag is asked for."""

    def __init__(self) -> None:
        self._epoch = new_epoch()
        self._table: array[int] | None = None

    def __repr__(self) -> str:
        return f"Versions(epoch={self._epoch.hex()}, held_bytes={self.held_bytes})"

    @property
    def held_bytes(self) -> int:
        return 0 if self._table is None else MEMORY_BUCKETS * VERSION_BYTES

    def vector(self, tags: Iterable[str]) -> bytes:
        """Return the versions of the tags, in their order, behind the epoch."""
        table = self._made()
        parts = [self._epoch]
        parts += (table[bucket_of(tag, MEMORY_BUCKETS)].to_bytes(VERSION_BYTES, "big") for tag in tags)
        return b"".join(parts)

    def bump(self, tags: Iterable[str]) -> None:
        """Make all that depends on one of the tags stale."""
        table = self._made()
        for bucket in {bucket_of(tag, MEMORY_BUCKETS) for tag in tags}:
            table[bucket] = (table[bucket] + 1) % 2**32

    def bump_all(self) -> None:
        """Make everything stale."""
        self._epoch = new_epoch()

    def _made(self) -> array[int]:
        if self._table is None:
            self._table = array("I", bytes(MEMORY_BUCKETS * VERSION_BYTES))
        return self._table
