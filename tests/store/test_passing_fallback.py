"""A worker with Redis and its successor: what passes while Redis is away, what does not, and that debts are paid once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from b1.clock import ManualClock, SystemClock
from b1.link import Link, LinkOptions
from b1.store.base import Charge, ClaimState, PenaltyRule
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.testing import StoreHarness
from tests.servers import RedisServer
from tests.store.distant import Distant

MIB = 2**20
DAY_MS = 86_400_000
CHARGE = Charge("limit:a:1", 20, 60_000)
LOOK = Charge("limit:a:1", 20, 60_000, 0)
RULE = PenaltyRule(threshold=2, blocks_ms=(10_000,))
KEY = "idempotency:o:k"


@pytest.fixture
def clock() -> ManualClock:
    return StoreHarness.clock_at_start()


@pytest.fixture
def distant(clock: ManualClock) -> Distant:
    return Distant(clock)


@pytest.fixture
async def old(distant: Distant, clock: ManualClock) -> AsyncIterator[FallbackStore]:
    store = FallbackStore(distant, MemoryStore(MIB, clock), clock)
    yield store
    await store.aclose()


@pytest.fixture
async def new(distant: Distant, clock: ManualClock) -> AsyncIterator[FallbackStore]:
    store = FallbackStore(distant, MemoryStore(MIB, clock), clock)
    yield store
    await store.aclose()


async def _spend(store: FallbackStore, count: int) -> int:
    return sum([(await store.spend([CHARGE])).allowed for _ in range(count)])


def _used(distant: Distant) -> int:
    return distant.inner.spend_now([LOOK], commit=False).balances[0].used


async def _until(is_true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 15
    while not is_true():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.01)


async def _pass(old: FallbackStore, new: FallbackStore, *, last: bool) -> None:
    absorbed = await new.absorb((await old.export(8 * MIB, last=last, drain_ms=0 if last else 1000)).data)
    assert (absorbed.refused, absorbed.damaged) == ("", 0)


async def _settled(store: FallbackStore) -> None:
    def is_settled() -> bool:
        debts = store.snapshot().reconcile
        return store.mode == "redis" and not (debts.owed_keys or debts.owed_records or debts.unsure_batches)

    await _until(is_settled)


async def test_while_redis_answers_nothing_passes(old: FallbackStore, new: FallbackStore, distant: Distant) -> None:
    await _spend(old, 3)
    claim = await old.claim(KEY, b"f", lease_ms=1000)
    assert (await old.export(MIB, last=False)).passed == {}
    await _spend(old, 2)
    assert await old.finish(KEY, claim.fence, b"r", ttl_ms=DAY_MS)
    assert (await old.export(MIB, last=True)).passed == {}
    assert await _spend(new, 99) == 15
    assert (await new.claim(KEY, b"f", lease_ms=1000)).record == b"r"


async def test_what_is_owed_and_can_be_paid_is_paid_instead(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    distant.is_away = True
    await _spend(old, 3)
    distant.is_away = False
    await _spend(old, 1)
    await old.invalidate(["t"])
    assert (await old.export(MIB, last=True)).passed == {}
    assert _used(distant) == 4


async def test_while_redis_is_away_the_successor_goes_on_from_memory(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    await _spend(old, 5)
    await old.penalise("penalty:1", RULE, strikes=2)
    distant.is_away = True
    await _spend(old, 5)
    await _pass(old, new, last=True)
    assert await _spend(new, 99) == 10
    assert (await new.penalise("penalty:1", RULE, strikes=0)).blocked_ms == 10_000


@pytest.mark.parametrize("is_lost", [False, True], ids=["redis-kept-its-data", "redis-came-back-empty"])
@pytest.mark.parametrize("is_overlap", [False, True], ids=["serial", "handover"])
async def test_the_successor_pays_what_both_owe_once(
    old: FallbackStore, new: FallbackStore, distant: Distant, is_lost: bool, is_overlap: bool
) -> None:
    await _spend(old, 2)
    distant.is_away = True
    spent = 2 + await _spend(old, 3)
    if is_overlap:
        await _pass(old, new, last=False)
        spent += await _spend(new, 4) + await _spend(old, 5)
    await _pass(old, new, last=True)
    spent += await _spend(new, 1)
    if is_lost:
        distant.restart_empty()
    distant.is_away = False
    await old.aclose()
    await _settled(new)
    assert _used(distant) == spent


async def test_units_of_the_overlap_are_owed_when_redis_goes_only_then(
    old: FallbackStore, new: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    await _spend(old, 2)
    await _pass(old, new, last=False)
    await _spend(new, 3)
    distant.is_away = True
    clock.advance(1)
    await _spend(old, 4)
    clock.advance(1)
    await _spend(new, 1)
    await _pass(old, new, last=True)
    assert await _spend(new, 1) == 1
    distant.is_away = False
    await _settled(new)
    assert _used(distant) == 2 + 3 + 4 + 1 + 1


@pytest.mark.parametrize("is_back", [False, True])
async def test_units_that_come_to_a_successor_with_redis_are_told_to_it(
    old: FallbackStore, new: FallbackStore, distant: Distant, clock: ManualClock, is_back: bool
) -> None:
    distant.is_away = True
    await _pass(old, new, last=False)
    await _spend(old, 4)
    distant.is_away = not is_back
    clock.advance(5)
    await _spend(new, 3)  # newer than the units that are still to come
    clock.advance(5)
    await _pass(old, new, last=True)
    distant.is_away = False
    await _settled(new)
    assert _used(distant) == 7


async def test_a_worker_that_left_its_debts_pays_nothing_any_more(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    distant.is_away = True
    await _spend(old, 3)
    await _pass(old, new, last=False)
    distant.is_away = False
    distant.calls.clear()
    assert await _spend(old, 2) == 2
    await old.invalidate(["t"])
    await _pass(old, new, last=True)
    await old.aclose()
    assert [call for call in distant.calls if call != "spend"] == []
    await _settled(new)
    assert _used(distant) == 5


async def test_a_claim_made_in_redis_and_finished_in_the_overlap_is_replayed_and_written_to_redis(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    claim = await old.claim(KEY, b"f", lease_ms=30_000)
    distant.is_away = True
    await old.spend([CHARGE])
    await _pass(old, new, last=False)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).state is ClaimState.IN_FLIGHT
    assert await old.finish(KEY, claim.fence, b"r", ttl_ms=DAY_MS)
    await _pass(old, new, last=True)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).record == b"r"
    distant.is_away = False
    await _settled(new)
    assert (await distant.inner.claim(KEY, b"f", lease_ms=1000)).record == b"r"


async def test_a_claim_made_in_memory_passes_also_when_redis_is_back(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    distant.is_away = True
    claim = await old.claim(KEY, b"f", lease_ms=30_000)
    distant.is_away = False
    await _spend(old, 1)
    await _pass(old, new, last=False)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).state is ClaimState.IN_FLIGHT
    assert await old.finish(KEY, claim.fence, b"r", ttl_ms=DAY_MS)
    await _pass(old, new, last=True)
    await _settled(new)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).record == b"r"


async def test_entries_and_invalidations_that_redis_has_not_heard_of_are_told_once(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    async def append(store: FallbackStore, data: bytes) -> int:
        return await store.append("events:1", data, keep=9, keep_bytes=1000, ttl_ms=60_000)

    ids = [await append(old, b"1")]
    distant.is_away = True
    ids.append(await append(old, b"2"))
    await old.invalidate(["t"])
    await _pass(old, new, last=False)
    ids.append(await append(old, b"3"))
    await _pass(old, new, last=True)
    ids.append(await append(new, b"4"))
    assert [entry.data for entry in (await new.read_since("events:1", ids[0], limit=9)).entries] == [b"2", b"3", b"4"]
    distant.is_away = False
    await _settled(new)
    await _until(lambda: "invalidate" in distant.calls)
    replay = await distant.inner.read_since("events:1", 0, limit=9)
    assert [(entry.id, entry.data) for entry in replay.entries] == list(zip(ids, (b"1", b"2", b"3", b"4"), strict=True))


async def test_debts_of_an_export_that_was_cancelled_pass_with_the_next(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    distant.is_away = True
    spent = await _spend(old, 3)
    await old.append("events:1", b"1", keep=9, keep_bytes=1000, ttl_ms=60_000)
    await old.invalidate(["t"])
    first = asyncio.create_task(old.export(MIB, last=False))
    for _ in range(4):
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    exported = await old.export(MIB, last=True)
    assert exported.passed == {"windows": 1, "debts": 2, "entries": 1}
    await new.absorb(exported.data)
    distant.is_away = False
    await _settled(new)
    assert _used(distant) == spent


async def test_a_successor_that_has_redis_for_the_first_time_tells_it_everything(
    new: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    old = MemoryStore(MIB, clock)
    for _ in range(7):
        old.spend_now([CHARGE])
    await old.finish(KEY, (await old.claim(KEY, b"f", lease_ms=1000)).fence, b"r", ttl_ms=DAY_MS)
    await new.absorb((await old.export(MIB, last=False)).data)
    old.spend_now([CHARGE])
    await new.absorb((await old.export(MIB, last=True)).data)
    assert await _spend(new, 1) == 1
    await _settled(new)
    assert _used(distant) == 9
    assert (await distant.inner.claim(KEY, b"f", lease_ms=1000)).record == b"r"


async def test_a_successor_without_redis_forgets_the_debts_and_keeps_the_counts(
    old: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    await _spend(old, 5)
    distant.is_away = True
    await _spend(old, 5)
    await old.invalidate(["t"])
    new = MemoryStore(MIB, clock)
    absorbed = await new.absorb((await old.export(MIB, last=True)).data)
    assert absorbed.damaged == 0
    assert sum(new.spend_now([CHARGE]).allowed for _ in range(99)) == 10
    assert (new.windows.owed, new.claims.owed) == ({}, {})


async def test_a_batch_whose_arrival_is_unknown_keeps_its_name(
    old: FallbackStore, new: FallbackStore, distant: Distant
) -> None:
    distant.is_away = True
    await _spend(old, 3)
    distant.is_away, distant.loses_replies = False, True
    await _spend(old, 1)  # pays, and does not hear that it has
    exported = await old.export(MIB, last=False)
    assert exported.passed == {"windows": 1, "debts": 1}
    await new.absorb(exported.data)
    assert (await old.export(MIB, last=True)).passed == {}
    distant.loses_replies = False
    await _settled(new)
    assert _used(distant) == 4


async def test_against_a_real_redis_both_workers_units_are_counted_once(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    clock = SystemClock()
    charges = [Charge(f"limit:a:{number}", 1000, 3_600_000) for number in range(100)]
    async with AsyncExitStack() as stack:
        stores, links = [], []
        for name in ("old", "new"):
            link = Link(LinkOptions(redis_server.url, deadline_s=10, slots_dir=tmp_path / name))
            stack.push_async_callback(link.aclose)
            links.append(link)
            stores.append(FallbackStore(RedisStore(link, "n"), MemoryStore(MIB, clock), clock))
        old, new = stores
        for charge in charges:
            await old.spend([charge])  # no link is started: Redis is away
        await _pass(old, new, last=False)
        for store in (old, new):
            for charge in charges[:50]:
                await store.spend([charge])
        await _pass(old, new, last=True)
        await links[1].start()
        await _settled(new)
        spent = [(await RedisStore(links[1], "n").spend([charge])).balances[0].used for charge in charges]
        assert spent == [4] * 50 + [2] * 50
        await new.aclose()
        await old.aclose()
