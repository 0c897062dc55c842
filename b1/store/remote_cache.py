"""The cache's verbs on a Redis server: entries, leases, versions, and this process's copy of the version table.

Many entries are read with one script for each 128 of them, all sent in one write: a script holds the server for about half
a millisecond then, and its reply stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TypeVar

from b1.errors import StoreUnavailable
from b1.link import Link
from b1.link.replies import Argument
from b1.store.asked_cache import all_versions, cache_answers, kept_of, packed_reads, packed_tags, packed_writes
from b1.store.following import Following
from b1.store.mirror import Mirror
from b1.store.reads import CacheAnswer, CacheRead, CacheWrite
from b1.store.versions import new_epoch, place_of

T = TypeVar("T")

# Of one script's call: entries, and bytes of values, one value more at worst.
CHUNK = 128
CHUNK_BYTES = 512 * 1024
# Into so many scripts the rest is divided when the values of one call were too large.
_PIECES = 8


class RemoteCache:
    """Entries under one prefix, and the versions of their tags.

    Args:
        prefix: of every key.
        mirror: what this process knows of the table.
    """

    def __init__(self, link: Link, prefix: str, mirror: Mirror) -> None:
        self._link = link
        self._prefix = prefix
        self._table = prefix + "cache:versions"
        self.mirror = mirror

    def __repr__(self) -> str:
        return f"RemoteCache({self._table!r}, {self.mirror!r})"

    def keep_mirror(self, *, heartbeat_s: float) -> None:
        """Follow what other processes invalidate, by pushes on the link; before the link is started.

        Raises:
            RuntimeError: the link is running.
        """
        following = Following(self._table, self.mirror, heartbeat_s=heartbeat_s)
        self._link.accompany(following.begin)
        self._link.subscribe([self._table], following.pushed)

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        """Read entries, in few scripts and one round trip, unless their values are too large for that.

        Raises:
            StoreUnavailable: Redis did not answer all of it. Leases may have been taken.
        """
        return await self._read_in_chunks(reads, CHUNK)

    async def store_if_unchanged(
        self,
        key: str,
        value: bytes | None,
        *,
        tags: tuple[str, ...],
        vector: bytes,
        ttl_ms: int,
        fresh_ms: int | None = None,
    ) -> bool:
        """See `Store.store_if_unchanged`."""
        stale_ms = 0 if fresh_ms is None else max(0, ttl_ms - fresh_ms)
        is_value = 0 if value is None else 1
        arguments: list[Argument] = [vector, ttl_ms, is_value, value or b"", stale_ms, packed_tags(tags)]
        return bool(await self._link.script("store_if_unchanged", self.keys_of(key), arguments) == 1)

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]:
        """See `Store.store_many`; one script for each 128 entries, all sent in one write.

        Raises:
            StoreUnavailable: Redis did not answer all of it.
        """
        chunks = list(_by_size(writes))
        if len(chunks) == 1:
            return await self._store_some(chunks[0])
        stored = await asyncio.gather(*map(self._store_some, chunks), return_exceptions=True)
        return [kept for chunk in stored for kept in _came(chunk)]

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        """See `Store.invalidate`."""
        mirror = self.mirror
        if mirror.is_all_marked:
            tags = None
        mark = mirror.mark(tags, soft)
        hard = {place_of(tag)[0] for tag in tags or ()}
        weak = {place_of(tag)[0] for tag in soft} - hard
        arguments = [new_epoch(), 1 if tags is None else 0, b"".join(sorted(hard)), b"".join(sorted(weak))]
        # The source and not its digest: a server that had lost the script would be told after what was sent behind it.
        change = await self._link.whole_script("invalidate", [self._table], arguments)
        if not isinstance(change, bytes):
            raise StoreUnavailable(f"the invalidate script answered {change!r}, expected bytes")
        mirror.hear_own(change)
        mirror.settle(mark)

    async def barrier(self) -> bool:
        """See `Store.barrier`."""
        await self._link.call("PING")
        return self.mirror.is_exact

    def keys_of(self, key: str) -> list[str]:
        """Return the keys that one entry's scripts touch."""
        entry = self._prefix + key
        return [self._table, entry, entry + ":lease"]

    async def _store_some(self, writes: Sequence[CacheWrite]) -> list[bool]:
        keys = [self._table]
        for write in writes:
            entry = self._prefix + write.key
            keys += entry, entry + ":lease"
        arguments: list[Argument] = [packed_writes(writes), *[write.value or b"" for write in writes]]
        return kept_of(await self._link.script("store_many", keys, arguments), writes)

    async def _read_in_chunks(self, reads: Sequence[CacheRead], size: int) -> list[CacheAnswer]:
        if len(reads) <= size:
            return await self._read_all(reads)
        chunks = [self._read_all(reads[at : at + size]) for at in range(0, len(reads), size)]
        answers = await asyncio.gather(*chunks, return_exceptions=True)
        return [answer for chunk in answers for answer in _came(chunk)]

    async def _read_all(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        answers = await self._read_some(reads)
        rest = reads[len(answers) :]
        if rest:
            # What is large comes in pieces, which do not wait for each other.
            answers += await self._read_in_chunks(rest, max(len(answers), -(-len(rest) // _PIECES)))
        return answers

    async def _read_some(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        keys = [self._table]
        for read in reads:
            entry = self._prefix + (read.key or "")
            keys += entry, entry + ":lease"
        arguments: list[Argument] = [new_epoch(), CHUNK_BYTES, packed_reads(reads)]
        answers = cache_answers(await self._link.script("read_many", keys, arguments), reads)
        self.mirror.learn(*all_versions(reads, answers))
        return answers


def _by_size(writes: Sequence[CacheWrite]) -> Iterator[list[CacheWrite]]:
    some: list[CacheWrite] = []
    size = 0
    for write in writes:
        size += len(write.value or b"")
        if len(some) == CHUNK or (some and size > CHUNK_BYTES):
            yield some
            some, size = [], len(write.value or b"")
        some.append(write)
    if some:
        yield some


def _came(chunk: list[T] | BaseException) -> list[T]:
    if isinstance(chunk, BaseException):
        raise chunk
    return chunk
