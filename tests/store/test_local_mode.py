"""While Redis is away: each process takes its part, offenders stay out, buckets and leases go on; then all is merged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from b1.clock import ManualClock
from b1.store.base import Charge, PenaltyRule
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.terms import Offender, Terms
from b1.testing import StoreHarness
from tests.store.distant import Distant

CHARGE = Charge("limit:a:1", 12, 60_000)
BUCKET = Charge("gcra:a:1", 60, 60_000, 1, False, "bucket", 6)
LEASE = Charge("lease:a:1", 4, 60_000, 1, False, "lease")
RULE = PenaltyRule(threshold=2, decay_ms=60_000, blocks_ms=(30_000,), apart_ms=0)
BLAMED = Terms(Offender("penalty:1", RULE))
REFUSED = Charge("limit:none:1", 0, 60_000)


@pytest.fixture
def clock() -> ManualClock:
    return StoreHarness.clock_at_start()


@pytest.fixture
def distant(clock: ManualClock) -> Distant:
    return Distant(clock)


class Fleet:
    """Processes that share one Redis."""

    def __init__(self, distant: Distant, clock: ManualClock) -> None:
        self.distant = distant
        self.clock = clock
        self.stores: list[FallbackStore] = []

    def add(self, *, instances: int = 1) -> FallbackStore:
        store = FallbackStore(self.distant, MemoryStore(2**20, self.clock), self.clock, instances=instances)
        self.stores.append(store)
        return store

    async def meet(self) -> None:
        """Let every process register, and then hear of all of them."""
        for _ in range(2):
            self.clock.advance(6)
            for store in self.stores:
                await store.spend([Charge("limit:other:1", 1000, 60_000)])
            await asyncio.sleep(0.01)

    async def passed(self, charge: Charge = CHARGE, times: int = 20) -> int:
        return sum([(await store.spend([charge])).allowed for _ in range(times) for store in self.stores])


@pytest.fixture
async def fleet(distant: Distant, clock: ManualClock) -> AsyncIterator[Fleet]:
    fleet = Fleet(distant, clock)
    yield fleet
    for store in fleet.stores:
        await store.aclose()


class TestShares:
    @pytest.mark.parametrize("processes", [1, 2, 3, 4])
    async def test_processes_that_lose_redis_together_let_no_more_than_the_quota_pass(
        self, fleet: Fleet, processes: int
    ) -> None:
        for _ in range(processes):
            fleet.add()
        await fleet.meet()
        before = sum([(await fleet.stores[0].spend([CHARGE])).allowed for _ in range(4)])
        for store in fleet.stores:  # all have seen what is used
            await store.spend([CHARGE], commit=False)
        fleet.distant.is_away = True
        assert before + await fleet.passed() == 4 + 8 // processes * processes

    async def test_who_never_heard_of_others_assumes_what_was_configured(self, fleet: Fleet) -> None:
        fleet.distant.is_away = True
        store = fleet.add(instances=3)
        assert sum([(await store.spend([CHARGE])).allowed for _ in range(20)]) == 4
        assert store.snapshot().instances == 3

    async def test_what_used_to_be_everybodys_comes_back_to_all_in_parts(
        self, fleet: Fleet, clock: ManualClock
    ) -> None:
        for _ in range(2):
            fleet.add()
        await fleet.meet()
        await fleet.stores[0].spend([Charge(CHARGE.key, 12, 60_000, 12)])
        await fleet.stores[1].spend([CHARGE])
        fleet.distant.is_away = True
        assert await fleet.passed() == 0
        clock.advance(62)
        assert await fleet.passed() == 12

    async def test_a_quota_smaller_than_the_fleet_leaves_one_to_each(self, fleet: Fleet) -> None:
        for _ in range(3):
            fleet.add()
        await fleet.meet()
        fleet.distant.is_away = True
        assert await fleet.passed(Charge("limit:b:1", 1, 60_000)) == 3

    async def test_a_share_is_told_as_the_limit(self, fleet: Fleet) -> None:
        fleet.distant.is_away = True
        balance = (await fleet.add(instances=3).spend([CHARGE])).balances[0]
        assert (balance.used, balance.remaining) == (1, 3)

    async def test_on_return_the_parts_are_one_quota_again(self, fleet: Fleet) -> None:
        for _ in range(2):
            fleet.add()
        await fleet.meet()
        fleet.distant.is_away = True
        local = await fleet.passed(times=5)
        fleet.distant.is_away = False
        assert (local, local + await fleet.passed()) == (10, 12)

    async def test_a_process_that_ends_leaves_its_part_to_the_others(self, fleet: Fleet) -> None:
        first, second = fleet.add(), fleet.add()
        await fleet.meet()
        assert first.snapshot().instances == 2
        await second.aclose()
        fleet.stores.remove(second)
        await fleet.meet()
        assert first.snapshot().instances == 1


class TestBuckets:
    async def test_a_bucket_goes_on_from_what_redis_said_and_is_told_on_return(self, fleet: Fleet) -> None:
        store = fleet.add()
        for _ in range(2):
            await store.spend([BUCKET])
        fleet.distant.is_away = True
        assert await fleet.passed(BUCKET) == 4
        fleet.distant.is_away = False
        assert await fleet.passed(BUCKET) == 0
        assert fleet.distant.inner.spend_now([BUCKET], commit=False).balances[0].used == 6

    async def test_a_bucket_that_redis_lost_is_told_again(self, fleet: Fleet) -> None:
        store = fleet.add()
        fleet.distant.is_away = True
        assert await fleet.passed(BUCKET, 3) == 3
        fleet.distant.restart_empty()
        assert await fleet.passed(BUCKET) == 3
        assert store.snapshot().reconcile.owed_keys == 0

    async def test_what_flowed_back_while_redis_was_away_is_not_owed(self, fleet: Fleet, clock: ManualClock) -> None:
        fleet.add()
        fleet.distant.is_away = True
        for _ in range(60):  # a unit a second, as fast as they come back
            clock.advance(1)
            assert await fleet.passed(BUCKET, 1) == 1
        fleet.distant.is_away = False
        assert await fleet.passed(BUCKET) == 5

    async def test_a_debt_that_could_not_be_paid_stays(self, fleet: Fleet) -> None:
        store = fleet.add()
        fleet.distant.is_away = True
        assert await fleet.passed(BUCKET, 3) == 3
        fleet.distant.is_away = False
        fleet.distant.loses_replies = True
        await fleet.passed(BUCKET, 1)
        assert store.snapshot().reconcile.owed_keys
        fleet.distant.loses_replies = False
        passed = await fleet.passed(BUCKET)
        assert passed <= 2  # told twice it is stricter, never laxer

    async def test_each_process_has_a_smaller_bucket(self, fleet: Fleet) -> None:
        fleet.distant.is_away = True
        for _ in range(3):
            fleet.add(instances=3)
        assert await fleet.passed(BUCKET) == 6

    async def test_a_bucket_passes_to_a_successor_with_its_debt(self, fleet: Fleet, clock: ManualClock) -> None:
        store = fleet.add()
        fleet.distant.is_away = True
        assert await fleet.passed(BUCKET, 4) == 4
        exported = await store.export(2**20, last=True)
        assert exported.passed["buckets"] == 1
        heir = FallbackStore(fleet.distant, MemoryStore(2**20, clock), clock)
        absorbed = await heir.absorb(exported.data)
        assert absorbed.taken["buckets"] == 1
        fleet.stores[:] = [heir]
        assert await fleet.passed(BUCKET, 1) == 1
        fleet.distant.is_away = False
        assert await fleet.passed(BUCKET) == 1
        await store.aclose()

    async def test_without_redis_a_bucket_passes_to_a_successor(self, clock: ManualClock) -> None:
        store, heir = MemoryStore(2**20, clock), MemoryStore(2**20, clock)
        for _ in range(4):
            store.spend_now([BUCKET])
        await heir.absorb((await store.export(2**20, last=True)).data)
        assert [heir.spend_now([BUCKET]).allowed for _ in range(3)] == [True, True, False]
        assert not heir.buckets.owed


class TestLeases:
    async def test_what_was_held_in_redis_is_held_here(self, fleet: Fleet) -> None:
        store = fleet.add()
        for holder in "abc":
            await store.spend([LEASE], terms=Terms(holder=holder))
        fleet.distant.is_away = True
        answers = [(await store.spend([LEASE], terms=Terms(holder=holder))).allowed for holder in "de"]
        assert answers == [True, False]
        await store.refund([LEASE], holder="a")
        assert (await store.spend([LEASE], terms=Terms(holder="f"))).allowed

    async def test_what_is_given_back_is_given_back_in_both(self, fleet: Fleet) -> None:
        store = fleet.add()
        await store.spend([LEASE], terms=Terms(holder="a"))
        await store.refund([LEASE], holder="a")
        assert fleet.distant.inner.spend_now([LEASE], commit=False).balances[0].used == 0
        fleet.distant.is_away = True
        assert (await store.spend([LEASE], commit=False)).balances[0].used == 0


class TestOffenders:
    async def _offend(self, store: FallbackStore) -> int:
        for _ in range(2):
            spent = await store.spend([REFUSED], terms=BLAMED)
        assert spent.penalty is not None
        return spent.penalty.blocked_ms

    async def test_who_was_shut_out_in_redis_stays_out(self, fleet: Fleet) -> None:
        store = fleet.add()
        assert await self._offend(store) == 30_000
        fleet.distant.is_away = True
        assert not (await store.spend([CHARGE], terms=BLAMED)).allowed

    async def test_who_was_shut_out_here_stays_out_when_redis_is_back_and_asks_nobody(
        self, fleet: Fleet, clock: ManualClock
    ) -> None:
        store = fleet.add()
        fleet.distant.is_away = True
        assert await self._offend(store) == 30_000
        fleet.distant.is_away = False
        fleet.distant.calls.clear()
        assert not (await store.spend([CHARGE], terms=BLAMED)).allowed
        assert "spend" not in fleet.distant.calls
        clock.advance(30)
        assert (await store.spend([CHARGE], terms=BLAMED)).allowed

    async def test_strikes_in_redis_count_here(self, fleet: Fleet) -> None:
        store = fleet.add()
        await store.spend([REFUSED], terms=BLAMED)
        fleet.distant.is_away = True
        spent = await store.spend([REFUSED], terms=BLAMED)
        assert spent.penalty == (30_000, 0, 1)

    async def test_a_pardon_by_another_process_is_believed(self, fleet: Fleet) -> None:
        store = fleet.add()
        await self._offend(store)
        await fleet.distant.penalise("penalty:1", RULE, strikes=0, pardon=True)
        assert (await store.spend([CHARGE], terms=BLAMED)).allowed

    async def test_a_block_passes_to_a_successor(self, fleet: Fleet, clock: ManualClock) -> None:
        store = fleet.add()
        fleet.distant.is_away = True
        await self._offend(store)
        exported = await store.export(2**20, last=True)
        heir = MemoryStore(2**20, clock)
        await heir.absorb(exported.data)
        assert not heir.spend_now([CHARGE], terms=BLAMED).allowed
        clock.advance(30)
        assert heir.spend_now([CHARGE], terms=BLAMED).allowed
