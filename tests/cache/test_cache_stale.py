"""What is served while a load runs, takes too long, or fails: stale values, timeouts, negative answers.

Scenarios named in docstrings are those of other caches' test suites, written anew for this one.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from b1.cache import L1, Cache, CacheOptions, LoadOptions
from b1.clock import ManualClock
from b1.errors import DeadlineExceeded
from tests.cache.hosts import Loader, settled

MINUTE = LoadOptions(stale_s=600.0)
PATIENT = LoadOptions(stale_s=600.0, revalidate=False, soft_timeout_s=60.0)
HASTY = LoadOptions(stale_s=600.0, revalidate=False, soft_timeout_s=0.01)


class World:
    """A cache of one process, on a clock that stands still."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.is_saturated = False
        self.entered: list[str] = []
        self.cache = Cache(
            L1(1_000_000, clock),
            clock,
            limit_bytes=1_000_000,
            is_saturated=lambda: self.is_saturated,
            random=lambda: 0.5,
            options=CacheOptions(loads=2, refreshes=1, hard_timeout_s=5.0),
        )

    async def get(self, loader: Any, options: LoadOptions = MINUTE, **how: Any) -> Any:
        return await self.cache.get_or_load("user:1", loader, ttl_s=60, tags=("users",), options=options, **how)

    async def grow_stale(self) -> Loader:
        """Load once and let the time of the value pass; return the loader, which waits from now on."""
        loader = Loader()
        assert await self.get(loader) == {"call": 1}
        loader.go.clear()
        loader.begun.clear()
        self.clock.advance(61)
        return loader


@pytest.fixture
async def world(clock: ManualClock) -> AsyncIterator[World]:
    made = World(clock)
    yield made
    await made.cache.aclose()


async def test_a_stale_value_is_served_at_once_while_one_load_runs_behind_it(world: World) -> None:
    """BentoCache swr_concurrent.spec: return stale immediately when the factory is running in the background."""
    loader = await world.grow_stale()
    assert [await world.get(loader) for _ in range(20)] == [{"call": 1}] * 20
    await loader.begun.wait()
    assert await world.get(loader) == {"call": 1}
    loader.go.set()
    await settled()
    assert (await world.get(loader), loader.calls) == ({"call": 2}, 2)
    assert (world.cache.snapshot().stale["revalidate"], world.cache.snapshot().refreshes) == (21, 1)


async def test_stale_is_never_served_where_it_was_not_allowed(world: World) -> None:
    loader = await world.grow_stale()
    loader.go.set()
    assert await world.get(loader, LoadOptions()) == {"call": 2}


async def test_a_value_that_is_stale_for_too_long_is_loaded(world: World) -> None:
    loader = await world.grow_stale()
    world.clock.advance(601)
    loader.go.set()
    assert await world.get(loader) == {"call": 2}


async def test_a_hard_invalidation_leaves_nothing_stale(world: World) -> None:
    """FusionCache #648: a purged value came back through fail-safe."""
    loader = await world.grow_stale()
    loader.go.set()
    loader.error = LookupError()
    world.cache.invalidate(["users"])
    with pytest.raises(LookupError):
        await world.get(loader)


async def test_after_the_soft_timeout_stale_is_served_and_the_load_goes_on(world: World) -> None:
    """FusionCache: SoftTimeoutDoesNotBreakStampedeProtection, AdaptiveCachingWithBackgroundFactoryCompletion."""
    loader = await world.grow_stale()
    assert await asyncio.gather(*(world.get(loader, HASTY) for _ in range(10))) == [{"call": 1}] * 10
    loader.go.set()
    await settled()
    assert (await world.get(loader, HASTY), loader.calls) == ({"call": 2}, 2)
    assert world.cache.snapshot().stale["timeout"] == 10


async def test_within_the_soft_timeout_the_new_value_is_served(world: World) -> None:
    loader = await world.grow_stale()
    reading = asyncio.create_task(world.get(loader, PATIENT))
    await loader.begun.wait()
    loader.go.set()
    assert await reading == {"call": 2}


async def test_stale_is_served_on_error_and_the_source_is_left_alone_for_a_while(world: World) -> None:
    """FusionCache fail-safe with throttle; cashews failover."""
    loader = await world.grow_stale()
    loader.go.set()
    loader.error = ConnectionError("down")
    for _ in range(10):
        assert await world.get(loader, PATIENT) == {"call": 1}
    assert loader.calls == 2
    world.clock.advance(5.1)
    assert await world.get(loader, PATIENT) == {"call": 1}
    assert loader.calls == 3
    loader.error = None
    world.clock.advance(5.1)
    assert await world.get(loader, PATIENT) == {"call": 4}


async def test_an_error_reaches_the_caller_where_stale_is_not_for_errors(world: World) -> None:
    loader = await world.grow_stale()
    loader.go.set()
    loader.error = ConnectionError("down")
    with pytest.raises(ConnectionError, match="down"):
        await world.get(loader, LoadOptions(stale_s=600, revalidate=False, on_error=False))


async def test_a_failed_background_load_is_nobodys_exception(world: World) -> None:
    """FusionCache HandlesBackgroundFactoryException; BentoCache: no unhandled rejection, the lock is released."""
    loader = await world.grow_stale()
    loader.go.set()
    loader.error = ConnectionError("down")
    assert await world.get(loader) == {"call": 1}
    await settled()
    loader.error = None
    world.clock.advance(5.1)
    assert await world.get(loader) == {"call": 1}
    await settled()
    assert await world.get(loader) == {"call": 3}
    assert world.cache.snapshot().errors["load"] == 1


async def test_stale_is_preferred_while_the_database_is_saturated(world: World) -> None:
    loader = await world.grow_stale()
    world.is_saturated = True
    assert [await world.get(loader, options) for options in (MINUTE, PATIENT, HASTY)] == [{"call": 1}] * 3
    await settled()
    assert (loader.calls, world.cache.snapshot().stale["saturated"]) == (1, 3)
    world.is_saturated = False
    loader.go.set()
    assert await world.get(loader, PATIENT) == {"call": 2}


async def test_while_the_database_is_saturated_what_is_not_there_is_loaded(world: World) -> None:
    world.is_saturated = True
    assert await world.get(Loader()) == {"call": 1}


async def test_a_loader_that_hangs_holds_up_nobody_beyond_the_hard_timeout(world: World) -> None:
    """BentoCache timeouts.spec; FusionCache #560: entries stuck under load with timeouts."""
    loader = Loader(held=True)
    options = LoadOptions(hard_timeout_s=0.02)
    results = await asyncio.gather(*(world.get(loader, options) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [DeadlineExceeded] * 5
    assert (loader.calls, loader.cancelled, world.cache.snapshot().errors["timeout"]) == (1, 1, 1)
    assert await world.get(Loader(), options) == {"call": 1}


async def test_a_loader_that_does_not_let_itself_be_cancelled_holds_up_nobody_either(world: World) -> None:
    stubborn = asyncio.Event()

    async def loader() -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(DeadlineExceeded):
        await world.get(loader, LoadOptions(hard_timeout_s=0.02))
    stubborn.set()
    await settled()


async def test_after_the_hard_timeout_stale_is_served_where_it_is_allowed(world: World) -> None:
    loader = await world.grow_stale()
    options = LoadOptions(stale_s=600, revalidate=False, soft_timeout_s=60, hard_timeout_s=0.02)
    assert await world.get(loader, options) == {"call": 1}
    assert (loader.cancelled, world.cache.snapshot().stale["error"]) == (1, 1)


async def test_a_loader_that_cancels_itself_cancels_nobody_else(world: World) -> None:
    """Otter TestCache_GetPanic, in asyncio: what ends a load badly must not end those who wait."""

    async def loader() -> None:
        raise asyncio.CancelledError

    for _ in range(2):
        with pytest.raises(DeadlineExceeded, match="was cancelled"):
            await world.get(loader)


async def test_an_absent_value_is_kept_for_its_own_time(world: World) -> None:
    """Cache penetration: ids that do not exist are asked for again and again."""
    calls = 0

    async def nobody() -> None:
        nonlocal calls
        calls += 1

    options = LoadOptions(none_s=3.0, stale_s=600)
    assert [await world.get(nobody, options) for _ in range(5)] == [None] * 5
    assert calls == 1
    world.clock.advance(3.1)
    assert await world.get(nobody, options) is None
    assert calls == 2


async def test_a_declared_exception_is_an_answer_for_a_while_and_comes_without_a_past(world: World) -> None:
    loader = Loader()
    loader.error = LookupError("no such row")
    options = LoadOptions(errors=(LookupError,), errors_s=2.0)
    raised = []
    for _ in range(5):
        with pytest.raises(LookupError, match="no such row") as caught:
            await world.get(loader, options)
        raised.append(caught.value)
    assert loader.calls == 1
    assert len({id(error) for error in raised}) == 5
    world.clock.advance(2.3)
    with pytest.raises(LookupError):
        await world.get(loader, options)
    assert loader.calls == 2


async def test_an_exception_that_cannot_be_copied_is_not_kept(world: World) -> None:
    class Awkward(LookupError):
        def __init__(self, one: int, two: int) -> None:
            super().__init__("awkward")

    loader = Loader()
    loader.error = Awkward(1, 2)
    options = LoadOptions(errors=(LookupError,))
    for _ in range(2):
        with pytest.raises(Awkward):
            await world.get(loader, options)
    assert loader.calls == 2


async def test_a_declared_exception_is_not_covered_by_a_stale_value(world: World) -> None:
    loader = await world.grow_stale()
    loader.go.set()
    loader.error = LookupError("gone")
    options = LoadOptions(stale_s=600, revalidate=False, soft_timeout_s=60, errors=(LookupError,))
    with pytest.raises(LookupError, match="gone"):
        await world.get(loader, options)


async def test_the_dearer_the_load_and_the_nearer_the_end_the_sooner_it_is_loaded_anew(world: World) -> None:
    """XFetch with a random number of 0.5: due ln 2 load times before the end. FusionCache eager refresh."""
    loader = Loader(world.clock, takes_s=10.0)
    await world.get(loader)
    world.clock.advance(60 - 7.0)
    assert await world.get(loader) == {"call": 1}
    await settled()
    assert loader.calls == 1
    world.clock.advance(0.1)
    assert [await world.get(loader) for _ in range(3)] == [{"call": 1}] * 3
    await settled()
    assert (loader.calls, await world.get(loader)) == (2, {"call": 2})


async def test_a_caller_without_a_value_joins_the_reload_that_runs(world: World) -> None:
    """FusionCache NormalFactoryExecutionWaitsForInFlightEagerRefresh, EagerRefreshDoesNotBreakStampedeProtection."""
    loader = Loader(world.clock, takes_s=10.0)
    await world.get(loader)
    loader.go.clear()
    loader.begun.clear()
    world.clock.advance(59)
    assert await world.get(loader) == {"call": 1}
    await loader.begun.wait()
    world.clock.advance(2)
    joined = [asyncio.create_task(world.get(loader, LoadOptions())) for _ in range(10)]
    await settled()
    loader.go.set()
    assert await asyncio.gather(*joined) == [{"call": 2}] * 10
    assert loader.calls == 2


async def test_a_reload_that_an_invalidation_overtook_does_not_bring_the_value_back(world: World) -> None:
    """Caffeine refresh_invalidate, refresh_absentThenInvalidate_doesNotResurrect, refresh_discard_remove."""
    loader = await world.grow_stale()
    assert await world.get(loader) == {"call": 1}
    await loader.begun.wait()
    world.cache.invalidate(["users"])
    after = asyncio.create_task(world.get(loader))
    await settled()
    loader.go.set()
    await settled()
    assert (await after, loader.calls) == ({"call": 3}, 3)
    assert await world.get(loader) == {"call": 3}


async def test_a_value_put_during_a_reload_is_not_replaced_by_it(world: World) -> None:
    """Caffeine refresh_discard_put, refreshIfNeeded_writeTimeABA, staleCompletion_doesNotDiscardSuccessor."""
    loader = await world.grow_stale()
    assert await world.get(loader) == {"call": 1}
    await loader.begun.wait()
    assert await world.cache.set("user:1", {"put": True}, ttl_s=60, tags=("users",))
    loader.go.set()
    await settled()
    assert await world.get(loader) == {"put": True}


async def test_refreshes_are_few_at_a_time_and_never_in_the_way_of_who_waits(world: World) -> None:
    loaders = {name: Loader() for name in "abcd"}

    async def get(name: str) -> Any:
        return await world.cache.get_or_load(name, loaders[name], ttl_s=60, options=MINUTE)

    for name in "abc":
        await get(name)
    for loader in loaders.values():
        loader.go.clear()
    world.clock.advance(61)
    for name in "abc":
        assert await get(name) == {"call": 1}
    await settled()
    assert [loaders[name].calls for name in "abc"] == [2, 1, 1]
    waiting = asyncio.create_task(get("d"))
    await settled()
    assert loaders["d"].calls == 1
    for loader in loaders.values():
        loader.go.set()
    assert await waiting == {"call": 1}
    await settled(50)
    assert [loaders[name].calls for name in "abc"] == [2, 2, 2]
