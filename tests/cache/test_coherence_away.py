"""The cache's verbs while Redis is away, and for one call that failed: whose copies count, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from b1.clock import ManualClock
from b1.errors import StoreUnavailable
from b1.store.base import CacheAnswer, CacheRead, CacheState, Charge
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.versions import compare
from b1.testing import StoreHarness
from tests.store.distant import Distant

TAGS = ("accounts:1", "plan:1")
READ = CacheRead("cache:1:k", TAGS, lease_ms=1000)


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


async def _read(store: FallbackStore) -> CacheAnswer:
    found = (await store.enter([], read=READ)).cache
    assert found is not None
    return found


async def _keep(store: FallbackStore, value: bytes, vector: bytes) -> bool:
    return await store.store_if_unchanged("cache:1:k", value, tags=TAGS, vector=vector, ttl_ms=600_000)


async def _go(store: FallbackStore, distant: Distant) -> None:
    distant.is_away = True
    await store.spend([Charge("limit:a:1", 5, 60_000)])
    assert store.mode == "local"


async def _return(store: FallbackStore, distant: Distant) -> None:
    distant.is_away = False
    await store.spend([Charge("limit:a:1", 5, 60_000)])
    assert store.mode == "redis"


async def test_a_copy_from_before_stays_good_until_it_is_invalidated_here(
    store: FallbackStore, distant: Distant
) -> None:
    copy = store.versions.vector(TAGS)
    await _go(store, distant)
    assert (store.versions.is_exact, store.versions.vector(TAGS)) == (False, copy)
    await store.invalidate([], soft=["plan:1"])
    assert compare(copy, store.versions.vector(TAGS)) == "soft"
    await store.invalidate(["accounts:1"])
    assert compare(copy, store.versions.vector(TAGS)) == "hard"
    assert store.owes_invalidations


async def test_what_was_invalidated_while_away_is_told_on_return_as_it_was_meant(
    store: FallbackStore, distant: Distant
) -> None:
    one, other = store.versions.vector(["accounts:1"]), store.versions.vector(["plan:1"])
    await _go(store, distant)
    await store.invalidate(["accounts:1"], soft=["plan:1"])
    await _return(store, distant)
    await _read(store)
    assert not store.owes_invalidations
    assert compare(one, store.versions.vector(["accounts:1"])) == "hard"
    assert compare(other, store.versions.vector(["plan:1"])) == "soft"
    assert store.versions.vector(TAGS) == distant.table.vector(TAGS)


async def test_what_was_built_after_an_invalidation_while_away_is_stale_on_return(
    store: FallbackStore, distant: Distant
) -> None:
    await _go(store, distant)
    await store.invalidate(["accounts:1"])
    copy, untouched = store.versions.vector(TAGS), store.versions.vector(["other"])
    await _return(store, distant)
    await _read(store)
    assert compare(copy, store.versions.vector(TAGS)) == "hard"
    assert store.versions.vector(["other"]) == untouched


async def test_after_thirty_seconds_away_every_copy_is_stale_and_none_is_gone(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    copy = store.versions.vector(TAGS)
    await _go(store, distant)
    assert not store.versions.is_exact
    clock.advance(31)
    assert not store.versions.is_exact
    assert compare(copy, store.versions.vector(TAGS)) == "soft"
    await _return(store, distant)
    assert (store.versions.is_exact, store.versions.vector(TAGS)) == (True, copy)


async def test_a_value_loaded_while_away_lives_for_thirty_seconds(
    store: FallbackStore, distant: Distant, clock: ManualClock
) -> None:
    await _go(store, distant)
    assert await _keep(store, b"v", (await _read(store)).vector)
    assert (await _read(store)).state is CacheState.HIT
    clock.advance(31)
    assert (await _read(store)).state is CacheState.LEASED


async def test_a_value_loaded_while_away_is_not_served_when_one_call_fails_after_the_return(
    store: FallbackStore, distant: Distant
) -> None:
    await _go(store, distant)
    assert await _keep(store, b"v", (await _read(store)).vector)
    await _return(store, distant)
    distant.error = StoreUnavailable("this one came too late")
    found = await _read(store)
    assert (found.state, found.value) == (CacheState.MISS, None)
    assert not await _keep(store, b"w", found.vector)
    assert store.mode == "redis"


async def test_an_invalidation_whose_answer_was_lost_is_repeated(store: FallbackStore, distant: Distant) -> None:
    copy = store.versions.vector(TAGS)
    distant.loses_replies = True
    await store.invalidate(["accounts:1"])
    assert store.owes_invalidations
    distant.loses_replies = False
    await _read(store)
    assert not store.owes_invalidations
    assert compare(copy, store.versions.vector(TAGS)) == "hard"
    assert distant.calls.count("invalidate") == 2


@pytest.mark.parametrize("is_soft", [False, True])
async def test_more_debts_than_are_remembered_become_one_of_everything(
    store: FallbackStore, distant: Distant, is_soft: bool
) -> None:
    copy = store.versions.vector(["untouched"])
    await _go(store, distant)
    tags = [f"t{number}" for number in range(5000)]
    await store.invalidate([] if is_soft else tags, soft=tags if is_soft else [])
    await _return(store, distant)
    await _read(store)
    assert not store.owes_invalidations
    assert compare(copy, store.versions.vector(["untouched"])) == "hard"


async def test_a_barrier_says_whether_redis_answered(store: FallbackStore, distant: Distant) -> None:
    assert await store.barrier()
    distant.is_away = True
    assert not await store.barrier()
