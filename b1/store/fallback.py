"""Redis when it answers, this process's memory when it does not: the same verbs, the same limits.

Each side alone never lets more than N pass in a window, so across any number of switches at most 2N do. A claim is
finished where it was made; the side is the lowest bit of the fence.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.store.base import Charge, Claim, ClaimState, Spent, Store, StoreSnapshot
from b1.store.memory import MemoryStore

_log = logging.getLogger("b1.store")
_OWN_CLAIMS = 4096
_NEWS_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class FallbackSnapshot(StoreSnapshot):
    """`StoreSnapshot` of the pair.

    Attributes:
        switches: how often the mode changed.
        local_calls: verbs that memory answered while Redis was configured.
        adopted: records kept in memory because Redis, where their claim was made, had gone.
        mode_since_s: age of the present mode.
    """

    switches: int
    local_calls: int
    adopted: int
    mode_since_s: float


class FallbackStore:
    """A Redis store with a memory store behind it.

    Every call tries Redis first; the link's breaker makes that cost microseconds while Redis is away.

    Args:
        redis: the store to prefer.
        memory: the store that is always there.
        clock: for the snapshot.
    """

    def __init__(self, redis: Store, memory: MemoryStore, clock: Clock) -> None:
        self._redis = redis
        self._memory = memory
        self._clock = clock
        self._is_local = False
        self._since_s = clock.monotonic()
        self._switches = self._local_calls = self._adopted = 0
        # Fingerprints of claims that this process made in Redis and has not finished: what adopting a record needs.
        self._own_claims: dict[str, tuple[int, bytes]] = {}

    def __repr__(self) -> str:
        return f"FallbackStore(mode={self.mode!r}, switches={self._switches}, redis={self._redis!r})"

    @property
    def mode(self) -> str:
        return "local" if self._is_local else "redis"

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True) -> Spent:
        try:
            spent = await self._redis.spend(charges, commit=commit)
        except StoreUnavailable as reason:
            self._went_local(reason)
            return self._memory.spend_now(charges, commit=commit)
        self._answered()
        return spent

    async def refund(self, charges: Sequence[Charge]) -> None:
        try:
            await self._redis.refund(charges)
        except StoreUnavailable as reason:
            self._went_local(reason)
            self._memory.refund_now(charges)
            return
        self._answered()

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        # What memory knows was claimed or finished while Redis was away; Redis knows nothing of it.
        if self._memory.knows_claim(key):
            return _local(await self._memory.claim(key, fingerprint, lease_ms=lease_ms))
        try:
            claim = await self._redis.claim(key, fingerprint, lease_ms=lease_ms)
        except StoreUnavailable as reason:
            self._went_local(reason)
            return _local(await self._memory.claim(key, fingerprint, lease_ms=lease_ms))
        self._answered()
        if claim.state is not ClaimState.CLAIMED:
            return claim
        self._remember(key, claim.fence, fingerprint)
        return Claim(ClaimState.CLAIMED, fence=claim.fence * 2)

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        if fence % 2:
            return await self._memory.renew(key, fence // 2, lease_ms=lease_ms)
        try:
            renewed = await self._redis.renew(key, fence // 2, lease_ms=lease_ms)
        except StoreUnavailable as reason:
            # Nobody of this process can have taken it over, and another one sees the lease in Redis or nothing at all.
            self._went_local(reason)
            return self._owns(key, fence // 2)
        self._answered()
        return renewed

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        if fence % 2:
            return await self._memory.finish(key, fence // 2, record, ttl_ms=ttl_ms)
        try:
            finished = await self._redis.finish(key, fence // 2, record, ttl_ms=ttl_ms)
        except StoreUnavailable as reason:
            self._went_local(reason)
            return self._adopt(key, fence // 2, record, ttl_ms)
        self._answered()
        self._own_claims.pop(key, None)
        return finished

    async def release(self, key: str, fence: int) -> bool:
        if fence % 2:
            return await self._memory.release(key, fence // 2)
        self._own_claims.pop(key, None)
        try:
            released = await self._redis.release(key, fence // 2)
        except StoreUnavailable as reason:
            self._went_local(reason)
            return True  # its lease in Redis runs out by itself
        self._answered()
        return released

    def snapshot(self) -> FallbackSnapshot:
        redis, memory = self._redis.snapshot(), self._memory.snapshot()
        return FallbackSnapshot(
            mode=self.mode,
            connected=redis.connected,
            keys=memory.keys,
            held_bytes=memory.held_bytes,
            limit_bytes=memory.limit_bytes,
            round_trips=redis.round_trips,
            errors=redis.errors,
            latency_ms=redis.latency_ms,
            switches=self._switches,
            local_calls=self._local_calls,
            adopted=self._adopted,
            mode_since_s=self._clock.monotonic() - self._since_s,
        )

    def _went_local(self, reason: StoreUnavailable) -> None:
        self._local_calls += 1
        if not self._is_local:
            self._switch(True, str(reason))

    def _answered(self) -> None:
        if self._is_local:
            self._switch(False, "redis answers")

    def _switch(self, is_local: bool, reason: str) -> None:
        now_s = self._clock.monotonic()
        # One key that Redis cannot serve switches to and fro with every other call; the counter says it better.
        is_news = self._switches == 0 or now_s - self._since_s >= _NEWS_AFTER_S
        self._is_local = is_local
        self._switches += 1
        self._since_s = now_s
        if is_news:
            _log.warning("store mode changed", extra={"mode": self.mode, "reason": reason})

    def _remember(self, key: str, fence: int, fingerprint: bytes) -> None:
        if len(self._own_claims) >= _OWN_CLAIMS:
            del self._own_claims[next(iter(self._own_claims))]
        self._own_claims[key] = (fence, fingerprint)

    def _owns(self, key: str, fence: int) -> bool:
        own = self._own_claims.get(key)
        return own is not None and own[0] == fence

    def _adopt(self, key: str, fence: int, record: bytes, ttl_ms: int) -> bool:
        own = self._own_claims.pop(key, None)
        if own is None or own[0] != fence:
            return False
        self._memory.adopt(key, own[1], record, ttl_ms=ttl_ms)
        self._adopted += 1
        return True


def _local(claim: Claim) -> Claim:
    if claim.state is not ClaimState.CLAIMED:
        return claim
    return Claim(ClaimState.CLAIMED, fence=claim.fence * 2 + 1)
