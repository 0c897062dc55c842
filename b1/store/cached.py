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
from b1.store.reconcile import Reconciler, Remote


class CacheVerbs:
    """Part of `FallbackStore`, which says what the three methods at the end do."""

    _redis: Remote
    _memory: MemoryStore
    _debts: Reconciler
    _presence: Presence

    @property
    def versions(self) -> Mirror:
        return self._redis.versions

    @property
    def owes_invalidations(self) -> bool:
        return self._debts.owes_cache or self._redis.owes_invalidations

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
            await self._reach()
            await self._debts.pay_cache()
            stored = await self._redis.store_if_unchanged(
                key, value, tags=tags, vector=vector, ttl_ms=ttl_ms, fresh_ms=fresh_ms
            )
        except StoreUnavailable as reason:
            self._failed(reason)
            if not self._presence.is_local:
                return False  # one call failed, and Redis goes on
            # Nobody hears now of what other processes invalidate. A vector of Redis is none of memory's, so what was begun
            # there is not kept here.
            ttl_ms = min(ttl_ms, int(self.versions.away_limit_s * 1000))
            return await self._memory.store_if_unchanged(
                key, value, tags=tags, vector=vector, ttl_ms=ttl_ms, fresh_ms=fresh_ms
            )
        self._answered()
        return stored

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self._memory.invalidate_here(tags, soft=soft)
        self._redis.invalidate_here(tags, soft=soft)
        self._debts.owe_tags(tags, soft)

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        # Owed and sent without a pause in between: nobody else may take the debt over and leave us nothing to wait for.
        self.invalidate_here(tags, soft=soft)
        try:
            await self._reach()
            await self._debts.pay_cache()
        except StoreUnavailable as reason:
            self._failed(reason)
            return
        self._answered()

    async def barrier(self) -> bool:
        try:
            await self._reach()
            await self._debts.pay_cache()
            is_known = await self._redis.barrier()
        except StoreUnavailable as reason:
            self._failed(reason)
            return False
        self._answered()
        return is_known and self.versions.is_exact

    async def _reach(self) -> None:
        raise NotImplementedError

    def _failed(self, reason: StoreUnavailable) -> None:
        raise NotImplementedError

    def _answered(self) -> None:
        raise NotImplementedError
