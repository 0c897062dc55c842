"""The cache's verbs of a store that has a Redis and a memory: whose versions count, and what is owed after an absence.

An invalidation takes effect here before anything is sent, and nothing is read from Redis before it has been told. What
memory keeps while Redis is away is only for then: it starts empty, and none of it is served after the return.
"""

from __future__ import annotations

from collections.abc import Sequence

from b1.errors import StoreUnavailable
from b1.store.memory import MemoryStore
from b1.store.mirror import Mirror
from b1.store.presence import Presence
from b1.store.reads import CacheAnswer, CacheRead, CacheWrite
from b1.store.reconcile import Reconciler, Remote
from b1.store.switching import Switching


class CacheVerbs:
    """What `FallbackStore` does for the cache; see `Store` for the verbs.

    Args:
        debts: what Redis has to be told before it is asked.
        presence: whether memory's entries count at all.
        switching: hears how each call went.
    """

    def __init__(
        self, redis: Remote, memory: MemoryStore, debts: Reconciler, presence: Presence, switching: Switching
    ) -> None:
        self._redis = redis
        self._memory = memory
        self._debts = debts
        self._presence = presence
        self._switching = switching

    def __repr__(self) -> str:
        return f"CacheVerbs({self.versions!r}, owes_invalidations={self.owes_invalidations})"

    @property
    def versions(self) -> Mirror:
        return self._redis.versions

    @property
    def owes_invalidations(self) -> bool:
        return self._debts.owes_cache or self._redis.owes_invalidations

    def readable(self, read: CacheRead) -> CacheRead:
        """Return what memory may be asked in place of Redis.

        When one call failed and Redis goes on, what memory kept from an absence has not heard of anything since.
        """
        return read if self._presence.is_local else CacheRead(None, read.tags)

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        try:
            await self._switching.reach_cache()
            answers = await self._redis.read_many(reads)
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            return self._memory.read_many_now([self.readable(read) for read in reads])
        self._switching.answered()
        return answers

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
        try:
            await self._switching.reach_cache()
            stored = await self._redis.store_if_unchanged(
                key, value, tags=tags, vector=vector, ttl_ms=ttl_ms, fresh_ms=fresh_ms
            )
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            if not self._presence.is_local:
                return False  # one call failed, and Redis goes on
            # Nobody hears now of what other processes invalidate. A vector of Redis is none of memory's, so what was begun
            # there is not kept here.
            ttl_ms = min(ttl_ms, int(self.versions.away_limit_s * 1000))
            return await self._memory.store_if_unchanged(
                key, value, tags=tags, vector=vector, ttl_ms=ttl_ms, fresh_ms=fresh_ms
            )
        self._switching.answered()
        return stored

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]:
        try:
            await self._switching.reach_cache()
            stored = await self._redis.store_many(writes)
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            if not self._presence.is_local:
                return [False] * len(writes)
            most_ms = int(self.versions.away_limit_s * 1000)  # as in `store_if_unchanged`
            return await self._memory.store_many(
                [write._replace(ttl_ms=min(write.ttl_ms, most_ms)) for write in writes]
            )
        self._switching.answered()
        return stored

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self._memory.invalidate_here(tags, soft=soft)
        self._redis.invalidate_here(tags, soft=soft)
        self._debts.owe_tags(tags, soft)

    def hear_of(self, tags: Sequence[str] | None) -> None:
        """Follow what a predecessor invalidated: it could not tell a Redis that is away, and one that is there tells us."""
        if self._presence.is_local and (tags is None or tags):
            self.invalidate_here(tags)
            self._switching.look_for_return()

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        # Owed and sent without a pause in between: nobody else may take the debt over and leave us nothing to wait for.
        self.invalidate_here(tags, soft=soft)
        try:
            await self._switching.reach_cache()
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            return
        self._switching.answered()

    async def barrier(self) -> bool:
        try:
            await self._switching.reach_cache()
            is_known = await self._redis.barrier()
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            return False
        self._switching.answered()
        return is_known and self.versions.is_exact
