"""Redis, then memory, then Redis: what is answered, what is counted, and where a claim ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from b1.clock import ManualClock
from b1.errors import StoreUnavailable
from b1.store.base import Charge, Claim, ClaimState, Spent, StoreSnapshot
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness

CHARGE = Charge("limit:a:1", 5, 60_000)


class Distant:
    """A memory store that can be out of reach; it stands for Redis here, tests/link has the real one."""

    mode = "redis"

    def __init__(self, clock: ManualClock) -> None:
        self.inner = MemoryStore(2**20, clock)
        self.is_away = False

    def _reach(self) -> MemoryStore:
        if self.is_away:
            raise StoreUnavailable("away")
        return self.inner

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True) -> Spent:
        return await self._reach().spend(charges, commit=commit)

    async def refund(self, charges: Sequence[Charge]) -> None:
        await self._reach().refund(charges)

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        return await self._reach().claim(key, fingerprint, lease_ms=lease_ms)

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        return await self._reach().renew(key, fence, lease_ms=lease_ms)

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        return await self._reach().finish(key, fence, record, ttl_ms=ttl_ms)

    async def release(self, key: str, fence: int) -> bool:
        return await self._reach().release(key, fence)

    def snapshot(self) -> StoreSnapshot:
        return self.inner.snapshot()


@pytest.fixture
def clock() -> ManualClock:
    return StoreHarness.clock_at_start()


@pytest.fixture
def distant(clock: ManualClock) -> Distant:
    return Distant(clock)


@pytest.fixture
def store(distant: Distant, clock: ManualClock) -> FallbackStore:
    return FallbackStore(distant, MemoryStore(2**20, clock), clock)


async def _passed(store: FallbackStore, count: int) -> int:
    return sum([(await store.spend([CHARGE])).allowed for _ in range(count)])


async def test_any_number_of_switches_lets_at_most_twice_the_quota_pass(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    passed = 0
    for turn in range(12):
        distant.is_away = bool(turn % 2)
        passed += await _passed(store, 7)
        clock.advance(4)
    assert passed == 10
    assert store.snapshot().switches == 11


async def test_the_snapshot_says_who_counts_and_since_when(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    await store.spend([CHARGE])
    assert (store.mode, store.snapshot().switches) == ("redis", 0)
    distant.is_away = True
    await store.spend([CHARGE])
    await store.refund([CHARGE])
    clock.advance(3)
    snapshot = store.snapshot()
    assert (snapshot.mode, snapshot.switches, snapshot.local_calls) == ("local", 1, 2)
    assert snapshot.mode_since_s == 3
    distant.is_away = False
    await store.spend([CHARGE])
    assert (store.mode, store.snapshot().switches) == ("redis", 2)


async def test_a_claim_made_locally_is_finished_and_replayed_locally_after_the_return(
    store: FallbackStore, distant: Distant
) -> None:
    distant.is_away = True
    claim = await store.claim("k", b"f", lease_ms=1000)
    distant.is_away = False
    assert (await store.claim("k", b"f", lease_ms=1000)).state is ClaimState.IN_FLIGHT
    assert await store.renew("k", claim.fence, lease_ms=1000)
    assert await store.finish("k", claim.fence, b"r", ttl_ms=5000)
    assert (await store.claim("k", b"f", lease_ms=1000)).record == b"r"
    assert (await store.claim("k", b"g", lease_ms=1000)).state is ClaimState.MISMATCH


async def test_a_claim_made_in_redis_is_finished_there(store: FallbackStore, distant: Distant) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    assert await store.finish("k", claim.fence, b"r", ttl_ms=5000)
    assert (await distant.inner.claim("k", b"f", lease_ms=1000)).record == b"r"


async def test_a_record_whose_claim_is_out_of_reach_is_kept_and_replayed_here(
    store: FallbackStore, distant: Distant
) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    distant.is_away = True
    assert await store.renew("k", claim.fence, lease_ms=1000)
    assert await store.finish("k", claim.fence, b"r", ttl_ms=5000)
    assert (await store.claim("k", b"f", lease_ms=1000)).record == b"r"
    distant.is_away = False
    assert (await store.claim("k", b"f", lease_ms=1000)).record == b"r"
    assert store.snapshot().adopted == 1


async def test_somebody_elses_fence_finishes_nothing_while_redis_is_away(
    store: FallbackStore, distant: Distant
) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    distant.is_away = True
    assert not await store.finish("k", claim.fence + 2, b"r", ttl_ms=5000)
    assert not await store.renew("k", claim.fence + 2, lease_ms=1000)
    assert (await store.claim("k", b"f", lease_ms=1000)).state is ClaimState.CLAIMED


async def test_a_claim_given_up_while_redis_is_away_frees_the_key_here(store: FallbackStore, distant: Distant) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    distant.is_away = True
    assert await store.release("k", claim.fence)
    again = await store.claim("k", b"f", lease_ms=1000)
    assert again.state is ClaimState.CLAIMED
    assert await store.release("k", again.fence)


async def test_a_cancelled_call_is_no_reason_to_switch(store: FallbackStore, distant: Distant) -> None:
    async def never(*_: object, **__: object) -> Spent:
        await asyncio.Event().wait()
        raise AssertionError

    distant.spend = never  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(store.spend([CHARGE]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (store.mode, store.snapshot().switches) == ("redis", 0)
