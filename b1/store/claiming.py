"""The claims of a store that has a Redis and a memory: each is finished where it was made.

The side is the lowest bit of the fence: 0 Redis, 1 memory. Memory mirrors what this process claimed in Redis, so that a
duplicate meets it when Redis has gone, and an outcome that Redis can no longer take is kept here and owed.
"""

from __future__ import annotations

from dataclasses import replace

from b1.errors import StoreUnavailable
from b1.store.base import Claim, ClaimState
from b1.store.memory import MemoryStore
from b1.store.reconcile import Remote
from b1.store.switching import Switching


class ClaimVerbs:
    """What `FallbackStore` does for claims; see `Store` for the verbs.

    Args:
        switching: hears how each call went.

    Attributes:
        adopted: records kept in memory because Redis, where their claim was made, had gone.
    """

    def __init__(self, redis: Remote, memory: MemoryStore, switching: Switching) -> None:
        self.adopted = 0
        self._redis = redis
        self._memory = memory
        self._switching = switching

    def __repr__(self) -> str:
        return f"ClaimVerbs({self._memory.claims!r}, adopted={self.adopted})"

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        # What memory decided was claimed or finished while Redis was away; Redis may know nothing of it.
        if self._memory.claims.is_live(key, self._memory.now_ms()):
            return _local(await self._memory.claim(key, fingerprint, lease_ms=lease_ms))
        try:
            await self._switching.reach()
            claim = await self._redis.claim(key, fingerprint, lease_ms=lease_ms)
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            return _local(await self._memory.claim(key, fingerprint, lease_ms=lease_ms))
        self._switching.answered()
        if claim.state is not ClaimState.CLAIMED:
            return replace(claim, fence=claim.fence * 2) if claim.is_owner_gone else claim
        now_ms = self._memory.now_ms()
        self._memory.claims.mirror(key, fingerprint, claim.fence, lease_ms=lease_ms, now_ms=now_ms)
        return Claim(ClaimState.CLAIMED, fence=claim.fence * 2)

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        if fence % 2:
            return await self._memory.renew(key, fence // 2, lease_ms=lease_ms)
        # Its mirror too: when Redis has gone, that is what a duplicate meets. Another process sees the lease in Redis
        # or nothing at all.
        is_held_here = await self._memory.renew(key, fence // 2, lease_ms=lease_ms)
        try:
            await self._switching.reach()
            renewed = await self._redis.renew(key, fence // 2, lease_ms=lease_ms)
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            return is_held_here
        self._switching.answered()
        return renewed

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        claims, own_fence, now_ms = self._memory.claims, fence // 2, self._memory.now_ms()
        if fence % 2:
            finished = claims.finish(key, own_fence, record, ttl_ms=ttl_ms, now_ms=now_ms)
            if finished:
                claims.owed[key] = 0
                self._switching.look_for_return()
            return finished
        try:
            await self._switching.reach()
            finished = await self._redis.finish(key, own_fence, record, ttl_ms=ttl_ms)
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            kept = claims.finish_mirror(key, own_fence, record, ttl_ms=ttl_ms, now_ms=self._memory.now_ms())
            self.adopted += kept
            self._switching.look_for_return()
            return kept
        self._switching.answered()
        if finished:
            claims.mirror_finish(key, own_fence, record, ttl_ms=ttl_ms, now_ms=self._memory.now_ms())
        return finished

    async def release(self, key: str, fence: int) -> bool:
        released_here = await self._memory.release(key, fence // 2)
        if fence % 2:
            return released_here
        try:
            await self._switching.reach()
            released = await self._redis.release(key, fence // 2)
        except StoreUnavailable as reason:
            self._switching.failed(reason)
            return True  # its lease in Redis runs out by itself
        self._switching.answered()
        return released


def _local(claim: Claim) -> Claim:
    return claim if claim.state is not ClaimState.CLAIMED else Claim(ClaimState.CLAIMED, fence=claim.fence * 2 + 1)
