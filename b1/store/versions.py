"""Versions of tags, without a memory of tags: every tag falls into one of many buckets, and a bucket has a version.

What depends on a tag is current while the bucket's version is the one it was built on. Two tags in one bucket invalidate
each other's entries: too much is thrown away, never too little. The epoch is random and changes when versions are lost
or everything is invalidated, so a version that comes again can never be mistaken for the old one.

A version is 32 bits: the high 24 count hard invalidations, the low 8 soft ones. Both steps only ever make it greater, so
none comes twice in an epoch; the last bit of each half is never reached by counting. That is what a process marks its own
invalidations with until the server has counted them (see `b1.store.mirror`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

EPOCH_BYTES = 8
VERSION_BYTES = 4
REDIS_BUCKETS = 65_536
MEMORY_BUCKETS = 65_536
# Here a count is over: the next soft step is a hard one, the next hard one a new epoch.
SOFT_END, HARD_END = 0x80, 0x8000_0000

Difference = Literal["same", "soft", "hard"]


@lru_cache(maxsize=4096)
def bucket_of(tag: str, buckets: int) -> int:
    """Return the bucket of a tag; the same in every process."""
    digest = blake2b(tag.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % buckets


@lru_cache(maxsize=4096)
def place_of(tag: str) -> tuple[bytes, slice]:
    """Return the bucket of a tag in Redis, as the scripts read it, and where its version stands in the table."""
    bucket = bucket_of.__wrapped__(tag, REDIS_BUCKETS)
    return bucket.to_bytes(4, "big"), slice(bucket * VERSION_BYTES, (bucket + 1) * VERSION_BYTES)


def buckets_of(tags: Iterable[str], buckets: int) -> set[int]:
    """Return the buckets of the tags."""
    return {bucket_of(tag, buckets) for tag in tags}


def new_epoch() -> bytes:
    """Return an epoch that was never used."""
    return os.urandom(EPOCH_BYTES)


def compare(old: bytes, new: bytes) -> Difference:
    """Say what happened to something built on `old` when the same tags are at `new`.

    ``soft``: it may be served as stale; ``hard``: it may not be served. Vectors of different stores, epochs or tags
    differ hard.
    """
    if old == new:
        return "same"
    if len(old) != len(new) or old[:EPOCH_BYTES] != new[:EPOCH_BYTES]:
        return "hard"
    for first in (8, 9, 10):  # the three bytes of the hard count, of all tags at once
        if old[first::VERSION_BYTES] != new[first::VERSION_BYTES]:
            return "hard"
    return "soft"


def after_hard(version: int) -> int:
    """Return the version after a hard invalidation; `HARD_END` or more: only a new epoch tells it from older ones."""
    return (version & ~0xFF) + 0x100


def after_soft(version: int) -> int:
    """Return the version after a soft invalidation, which is a hard one when the soft ones are counted out."""
    return version + 1 if (version + 1) & SOFT_END == 0 else after_hard(version)


class Versions:
    """The versions of one process, and so exact. The table of 256 KiB is made when the first tag is asked for.

    Attributes:
        changes: grows with every invalidation.
    """

    is_exact = True

    def __init__(self) -> None:
        self.changes = 0
        self._epoch = new_epoch()
        self._table: bytearray | None = None

    def __repr__(self) -> str:
        return f"Versions(epoch={self._epoch.hex()}, changes={self.changes}, held_bytes={self.held_bytes})"

    @property
    def held_bytes(self) -> int:
        return 0 if self._table is None else MEMORY_BUCKETS * VERSION_BYTES

    def vector(self, tags: Sequence[str]) -> bytes:
        """Return the versions of the tags, in their order, behind the epoch."""
        table = self._table
        if table is None:
            table = self._made()
        return b"".join([self._epoch, *[table[(at := bucket_of(tag, MEMORY_BUCKETS) * 4) : at + 4] for tag in tags]])

    def bump(self, tags: Iterable[str], soft: Iterable[str] = ()) -> None:
        """Make stale what depends on one of the tags: what depends on `tags` hard, else softly."""
        self.changes += 1
        table = self._made()
        hard = buckets_of(tags, MEMORY_BUCKETS)
        for bucket in hard:
            self._step(table, bucket, after_hard)
        for bucket in buckets_of(soft, MEMORY_BUCKETS) - hard:
            self._step(table, bucket, after_soft)

    def bump_all(self) -> None:
        """Make everything stale."""
        self.changes += 1
        self._epoch = new_epoch()

    def _step(self, table: bytearray, bucket: int, after: Callable[[int], int]) -> None:
        at = bucket * VERSION_BYTES
        version = after(int.from_bytes(table[at : at + VERSION_BYTES], "big"))
        if version >= HARD_END:
            version = 0
            self._epoch = new_epoch()
        table[at : at + VERSION_BYTES] = version.to_bytes(VERSION_BYTES, "big")

    def _made(self) -> bytearray:
        if self._table is None:
            self._table = bytearray(MEMORY_BUCKETS * VERSION_BYTES)
        return self._table
