"""Redis, then memory, then Redis: what is answered, what is counted, and where a claim ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from b1.clock import DEADLINE, ManualClock
from b1.errors import StoreUnavailable
from b1.link import ReplyError
from b1.store.base import CacheRead, CacheState, Charge, ClaimState, PenaltyRule, Spent
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness
from tests.store.distant import Distant

CHARGE = Charge("limit:a:1", 5, 60_000)
LOOK = Charge("limit:a:1", 5, 60_000, 0)
RULE = PenaltyRule(threshold=2, blocks_ms=(10_000,))


@pytest.fixture
def clock() -> ManualClock:
    return StoreHarness.clock_at_start()


@pytest.fixture
def distant(clock: ManualClock) -> Distant:
    return Distant(clock)


@pytest.fixture
async def store(distant: Distant, clock: ManualClock) -> AsyncIterator[FallbackStore]:
    store = FallbackStore(distant, MemoryStore(2**20, clock), clock)
    yield store
    await store.aclose()


async def _passed(store: FallbackStore, count: int, charge: Charge = CHARGE) -> int:
    return sum([(await store.spend([charge])).allowed for _ in range(count)])


async def _used(distant: Distant, key: str = "limit:a:1") -> int:
    return distant.inner.spend_now([Charge(key, 1, 60_000)], commit=False).balances[0].used


async def _until(is_true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.01)


async def test_any_number_of_switches_lets_no_more_than_the_quota_pass(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    passed = 0
    for turn in range(12):
        distant.is_away = bool(turn % 2)
        passed += await _passed(store, 1 + turn % 3)
        clock.advance(4)
    assert passed == 5
    assert store.snapshot().switches == 11


async def test_what_redis_counted_before_it_went_counts_here(store: FallbackStore, distant: Distant) -> None:
    await _passed(store, 3)
    distant.is_away = True
    assert await _passed(store, 5) == 2


async def test_what_others_spent_in_redis_counts_here_too(store: FallbackStore, distant: Distant) -> None:
    await distant.inner.spend([CHARGE, Charge("limit:b:1", 5, 60_000)])
    await distant.inner.spend([CHARGE])
    await _passed(store, 1)
    distant.is_away = True
    assert await _passed(store, 5) == 2


async def test_units_come_back_here_when_they_would_have_in_redis(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    await _passed(store, 3)
    clock.advance(30)
    await _passed(store, 1)
    distant.is_away = True
    assert await _passed(store, 5) == 1
    clock.advance(31)
    assert await _passed(store, 5) == 3


async def test_what_was_spent_here_is_added_in_redis_before_it_is_asked_again(
    store: FallbackStore, distant: Distant
) -> None:
    await _passed(store, 1)
    distant.is_away = True
    await _passed(store, 2)
    distant.is_away = False
    distant.calls.clear()
    assert await _passed(store, 1) == 1
    assert distant.calls == ["merge", "spend"]
    assert await _used(distant) == 4


async def test_units_handed_over_come_back_at_most_two_counters_late(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    distant.is_away = True
    clock.advance(0.4)
    await _passed(store, 5)
    clock.advance(20)
    distant.is_away = False
    assert await _passed(store, 1) == 0
    clock.advance(60 - 20)
    assert await _passed(store, 1) == 0
    clock.advance(2)
    assert await _passed(store, 6) == 5


async def test_a_server_that_lost_its_data_is_told_what_it_had_counted(store: FallbackStore, distant: Distant) -> None:
    await _passed(store, 3)
    distant.is_away = True
    await _passed(store, 1)
    distant.restart_empty()
    assert await _passed(store, 5) == 1
    assert await _used(distant) == 5


async def test_an_exhausted_caller_stays_so_when_a_server_comes_back_empty(
    store: FallbackStore, distant: Distant
) -> None:
    await _passed(store, 5)
    distant.is_away = True
    await store.spend([Charge("limit:other:1", 5, 60_000)])
    distant.restart_empty()
    assert await _passed(store, 3) == 0


async def test_a_flushed_server_that_was_never_away_lets_one_more_call_of_a_key_pass(
    store: FallbackStore, distant: Distant
) -> None:
    await _passed(store, 5)
    distant.inner = MemoryStore(2**20, ManualClock())
    assert await _passed(store, 10) == 1
    assert store.mode == "redis"


async def test_a_batch_whose_answer_was_lost_counts_once(store: FallbackStore, distant: Distant) -> None:
    distant.is_away = True
    await _passed(store, 2)
    distant.is_away, distant.loses_replies = False, True
    assert await _passed(store, 1) == 1  # carried out there with the merge's answer lost, so decided here
    distant.loses_replies = False
    assert await _passed(store, 1) == 1
    assert await _used(distant) == 4
    assert store.snapshot().reconcile.unsure_batches == 0


async def test_a_call_that_was_cancelled_while_it_paid_leaves_the_debt_payable(
    store: FallbackStore, distant: Distant
) -> None:
    distant.is_away = True
    await _passed(store, 2)
    distant.is_away = False
    real_merge, never = distant.merge, asyncio.Event()

    async def slow(*_: object, **__: object) -> int:
        await never.wait()
        return 0

    distant.merge = slow  # type: ignore[method-assign]
    task = asyncio.create_task(store.spend([CHARGE]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    distant.merge = real_merge  # type: ignore[method-assign]
    await _passed(store, 1)
    assert await _used(distant) == 3


async def test_idle_keys_are_handed_over_without_being_asked_for(store: FallbackStore, distant: Distant) -> None:
    distant.is_away = True
    for number in range(100):
        await store.spend([Charge(f"limit:a:{number}", 5, 60_000)])
    distant.is_away = False
    await _until(lambda: store.snapshot().reconcile.owed_keys == 0)
    assert [await _used(distant, f"limit:a:{number}") for number in range(100)] == [1] * 100
    assert store.mode == "redis"
    assert distant.calls.count("merge") == 4  # small batches


async def test_memory_never_follows_more_keys_than_its_bound(distant: Distant, clock: ManualClock) -> None:
    memory = MemoryStore(64 * 1024, clock)
    store = FallbackStore(distant, memory, clock)
    for number in range(3000):
        await store.spend([Charge(f"limit:a:{number}", 5, 60_000)])
    assert memory.windows.held_bytes <= 32 * 1024


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


@pytest.mark.parametrize(
    "error", [ReplyError("WRONGTYPE", "other"), ReplyError("ERR", "a script"), StoreUnavailable("deadline")]
)
async def test_what_is_wrong_with_one_key_or_one_call_is_no_reason_to_switch(
    store: FallbackStore, distant: Distant, error: StoreUnavailable
) -> None:
    distant.error = error
    assert await _passed(store, 8) == 5
    assert (store.mode, store.snapshot().switches) == ("redis", 0)


@pytest.mark.parametrize("word", ["OOM", "LOADING", "READONLY", "BUSY", "NOAUTH", "MISCONF"])
async def test_a_server_that_says_repeatedly_that_it_cannot_serve_is_away(
    store: FallbackStore, distant: Distant, word: str
) -> None:
    distant.error = ReplyError(word, "no")
    assert await _passed(store, 1) == 1
    assert store.mode == "redis"
    assert await _passed(store, 8) == 4
    assert store.mode == "local"
    distant.error = None
    await _until(lambda: store.mode == "redis")


async def test_an_idle_process_notices_the_return(store: FallbackStore, distant: Distant) -> None:
    distant.is_away = True
    await store.spend([LOOK])
    distant.is_away = False
    await _until(lambda: store.mode == "redis")


async def test_a_claim_made_locally_is_finished_and_replayed_after_the_return(
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
    await _until(lambda: store.snapshot().reconcile.written_records == 1)
    assert (await distant.inner.claim("k", b"f", lease_ms=1000)).record == b"r"
    assert (await store.claim("k", b"f", lease_ms=1000)).record == b"r"


async def test_a_claim_made_in_redis_is_finished_there(store: FallbackStore, distant: Distant) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    assert await store.finish("k", claim.fence, b"r", ttl_ms=5000)
    assert (await distant.inner.claim("k", b"f", lease_ms=1000)).record == b"r"


async def test_a_record_whose_claim_is_out_of_reach_is_kept_here_and_written_back(
    store: FallbackStore, distant: Distant
) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    distant.is_away = True
    assert await store.renew("k", claim.fence, lease_ms=1000)
    assert await store.finish("k", claim.fence, b"r", ttl_ms=5000)
    assert (await store.claim("k", b"f", lease_ms=1000)).record == b"r"
    assert store.snapshot().adopted == 1
    distant.is_away = False
    assert (await store.claim("k", b"f", lease_ms=1000)).record == b"r"
    await _until(lambda: store.snapshot().reconcile.written_records == 1)
    assert (await distant.inner.claim("k", b"f", lease_ms=1000)).record == b"r"


async def test_a_record_is_not_written_over_somebody_elses(store: FallbackStore, distant: Distant) -> None:
    distant.is_away = True
    claim = await store.claim("k", b"f", lease_ms=1000)
    assert await store.finish("k", claim.fence, b"ours", ttl_ms=5000)
    theirs = await distant.inner.claim("k", b"f", lease_ms=1000)
    await distant.inner.finish("k", theirs.fence, b"theirs", ttl_ms=5000)
    distant.is_away = False
    await _until(lambda: store.snapshot().reconcile.owed_records == 0)
    assert (await distant.inner.claim("k", b"f", lease_ms=1000)).record == b"theirs"


async def test_what_this_process_finished_in_redis_is_replayed_while_it_is_away(
    store: FallbackStore, distant: Distant
) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    await store.finish("k", claim.fence, b"r", ttl_ms=5000)
    distant.is_away = True
    found = await store.claim("k", b"f", lease_ms=1000)
    assert (found.state, found.record) == (ClaimState.FINISHED, b"r")


async def test_what_this_process_still_runs_is_in_flight_while_redis_is_away(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    distant.is_away = True
    assert (await store.claim("k", b"f", lease_ms=1000)).state is ClaimState.IN_FLIGHT
    assert not await store.finish("k", claim.fence + 2, b"r", ttl_ms=5000)
    assert not await store.renew("k", claim.fence + 2, lease_ms=1000)
    clock.advance(1)
    assert (await store.claim("k", b"f", lease_ms=1000)).state is ClaimState.CLAIMED
    assert not await store.finish("k", claim.fence, b"late", ttl_ms=5000)


async def test_a_claim_given_up_while_redis_is_away_frees_the_key_here(store: FallbackStore, distant: Distant) -> None:
    claim = await store.claim("k", b"f", lease_ms=1000)
    distant.is_away = True
    assert await store.release("k", claim.fence)
    again = await store.claim("k", b"f", lease_ms=1000)
    assert again.state is ClaimState.CLAIMED
    assert await store.release("k", again.fence)


async def test_an_invalidation_that_did_not_arrive_comes_before_the_next_read(
    store: FallbackStore, distant: Distant
) -> None:
    read = CacheRead("cache:1:k", ("t",), lease_ms=1000)
    vector = (await store.enter([], read=read)).cache
    assert vector is not None
    assert await store.store_if_unchanged("cache:1:k", b"old", tags=("t",), vector=vector.vector, ttl_ms=60_000)
    distant.is_away = True
    await store.invalidate(["t"])
    distant.is_away = False
    found = (await store.enter([], read=read)).cache
    assert found is not None
    assert found.state is CacheState.LEASED


async def test_a_load_that_began_in_redis_is_not_kept_in_memory(store: FallbackStore, distant: Distant) -> None:
    read = CacheRead("cache:1:k", ("t",), lease_ms=1000)
    begun = (await store.enter([], read=read)).cache
    assert begun is not None
    distant.is_away = True
    assert not await store.store_if_unchanged("cache:1:k", b"v", tags=("t",), vector=begun.vector, ttl_ms=60_000)


async def test_values_of_one_absence_are_not_served_in_the_next(store: FallbackStore, distant: Distant) -> None:
    read = CacheRead("cache:1:k", ("t",))
    distant.is_away = True
    await store.spend([LOOK])
    first = (await store.enter([], read=read)).cache
    assert first is not None
    assert await store.store_if_unchanged("cache:1:k", b"v", tags=("t",), vector=first.vector, ttl_ms=60_000)
    distant.is_away = False
    await store.spend([LOOK])
    distant.is_away = True
    await store.spend([LOOK])
    found = (await store.enter([], read=read)).cache
    assert found is not None
    assert found.state is CacheState.MISS


async def test_a_block_outlasts_the_switch_in_both_directions(store: FallbackStore, distant: Distant) -> None:
    await store.penalise("penalty:1:a", RULE, strikes=2)
    distant.is_away = True
    assert (await store.penalise("penalty:1:a", RULE, strikes=0)).blocked_ms == 10_000
    assert (await store.penalise("penalty:1:b", RULE, strikes=2)).blocked_ms == 10_000
    distant.is_away = False
    assert (await store.penalise("penalty:1:b", RULE, strikes=0)).blocked_ms == 10_000


async def test_a_replay_ring_goes_on_across_an_absence(store: FallbackStore, distant: Distant) -> None:
    ids = []
    for turn in range(6):
        distant.is_away = turn in (2, 3)
        ids.append(await store.append("events:1", bytes([turn]), keep=100, keep_bytes=1000, ttl_ms=60_000))
        if turn == 3:
            here = await store.read_since("events:1", ids[1], limit=10)
            assert (here.is_complete, [entry.data for entry in here.entries]) == (True, [b"\x02", b"\x03"])
            assert not (await store.read_since("events:1", ids[0], limit=10)).is_complete
    assert ids == sorted(set(ids))
    replay = await store.read_since("events:1", ids[1], limit=10)
    assert [entry.data for entry in replay.entries] == [b"\x02", b"\x03", b"\x04", b"\x05"]


async def test_a_cancelled_call_is_no_reason_to_switch(store: FallbackStore, distant: Distant) -> None:
    async def never(*_: object, **__: object) -> Spent:
        await asyncio.Event().wait()
        raise AssertionError

    distant.spend = never  # type: ignore[method-assign]
    task = asyncio.create_task(store.spend([CHARGE]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (store.mode, store.snapshot().switches) == ("redis", 0)


async def test_the_way_back_does_not_end_with_the_deadline_of_whoever_saw_it_go(
    store: FallbackStore, distant: Distant, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []
    spend, present = distant.spend, distant.be_present

    async def seeing(*args: Any, **more: Any) -> Any:
        seen.append(DEADLINE.get())
        return await spend(*args, **more)

    async def announcing(*args: Any, **more: Any) -> Any:
        seen.append(DEADLINE.get())
        return await present(*args, **more)

    distant.is_away = True
    token = DEADLINE.set(clock.monotonic() + 1)
    await store.spend([CHARGE])
    distant.is_away = False
    DEADLINE.reset(token)
    monkeypatch.setattr(distant, "spend", seeing)
    monkeypatch.setattr(distant, "be_present", announcing)
    await _until(lambda: store.mode == "redis" and len(seen) > 0)
    assert {None} == set(seen)
