"""Invalidations, writes and cancellations in the middle of loads, in one process and between hosts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from b1.cache import Cache, CacheOptions, LoadOptions
from b1.clock import ManualClock
from b1.errors import NotReady, Overloaded
from tests.cache.hosts import Hosts, HostStore, Loader, settled

Reader = Callable[..., Any]


@pytest.fixture
async def hosts(clock: ManualClock) -> AsyncIterator[Hosts]:
    made = Hosts(clock)
    yield made
    for cache in made.made:
        await cache.aclose()


@pytest.fixture(params=["pushes", "trips"])
def host(request: pytest.FixtureRequest, hosts: Hosts) -> tuple[Cache, HostStore]:
    return hosts.host(hears=request.param == "pushes")


NAMES = [
    {"tags": ["ledger"]},
    {"keys": ["a:b:c:d:e"]},
    {"prefixes": ["a"]},
    {"prefixes": ["a:b:"]},
    {"prefixes": ["a:b:c"]},
    {"everything": True},
    {"tags": ["ledger"], "soft": True},
]


async def read(cache: Cache, loader: Any, **how: Any) -> Any:
    return await cache.get_or_load("a:b:c:d:e", loader, ttl_s=60, tags=("ledger",), **how)


@pytest.mark.parametrize("names", NAMES, ids=str)
async def test_what_is_invalidated_while_it_loads_is_neither_kept_nor_joined(
    host: tuple[Cache, HostStore], names: dict[str, Any]
) -> None:
    """The race that FusionCache #535 and #628, HybridCache, BentoCache, cashews, aiocache and dogpile lose."""
    cache, _ = host
    loader = Loader(held=True)
    before = asyncio.create_task(read(cache, loader))
    await loader.begun.wait()
    await cache.invalidate(**names)
    after = asyncio.create_task(read(cache, loader))
    await settled()
    loader.go.set()
    assert (await before, await after) == ({"call": 1}, {"call": 2})
    assert await read(cache, loader) == {"call": 2}


@pytest.mark.parametrize("names", NAMES, ids=str)
async def test_an_invalidation_has_effect_in_its_process_before_it_is_awaited(
    host: tuple[Cache, HostStore], names: dict[str, Any]
) -> None:
    cache, store = host
    loader = Loader()
    assert await read(cache, loader) == {"call": 1}
    under_way = cache.invalidate(**names)
    if store.versions.is_exact:
        assert await read(cache, loader) == {"call": 2}
    await under_way
    assert await read(cache, loader) == {"call": 2}


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("names", NAMES[:-1], ids=str)
async def test_after_an_awaited_invalidation_no_other_host_reads_the_older_value(
    hosts: Hosts, hears: bool, names: dict[str, Any]
) -> None:
    """FusionCache L1L2Backplane: RemoveByTag, CanClearWithColdStarts; HybridCache extensions#7411."""
    (here, _), (there, _) = hosts.host(hears=hears), hosts.host(hears=hears)
    loader = Loader()
    assert [await read(cache, loader) for cache in (here, there)] == [{"call": 1}] * 2
    await here.invalidate(**names)
    assert [await read(cache, loader) for cache in (there, here)] == [{"call": 2}] * 2


@pytest.mark.parametrize("names", [{"organization": "1"}, {"keys": ["k"], "organization": "1"}], ids=str)
async def test_an_organisation_has_its_own_entries_and_loses_only_those(hosts: Hosts, names: dict[str, Any]) -> None:
    cache, _ = hosts.host()
    loaders = {name: Loader() for name in ("1", "2", None)}

    async def all_three() -> list[int]:
        return [
            (await cache.get_or_load("k", loader, organization=name, ttl_s=60))["call"]
            for name, loader in loaders.items()
        ]

    assert await all_three() == [1, 1, 1]
    await cache.invalidate(**names)
    assert await all_three() == [2, 1, 1]


async def test_a_prefix_is_whole_parts(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    one, other = Loader(), Loader()
    await cache.get_or_load("user:7:name", one, ttl_s=60)
    await cache.get_or_load("user:70:name", other, ttl_s=60)
    await cache.invalidate(prefixes=["user:7"])
    await cache.get_or_load("user:7:name", one, ttl_s=60)
    await cache.get_or_load("user:70:name", other, ttl_s=60)
    assert (one.calls, other.calls) == (2, 1)


async def test_a_soft_invalidation_serves_the_older_value_while_one_loads(host: tuple[Cache, HostStore]) -> None:
    cache, _ = host
    loader = Loader()
    options = LoadOptions(stale_s=600)
    await read(cache, loader, options=options)
    loader.go.clear()
    await cache.invalidate(["ledger"], soft=True)
    assert [await read(cache, loader, options=options) for _ in range(5)] == [{"call": 1}] * 5
    await settled()
    loader.go.set()
    await settled(50)
    assert await read(cache, loader, options=options) == {"call": 2}
    assert loader.calls == 2


async def test_with_many_invalidations_during_one_load_its_callers_are_answered_and_nothing_is_kept(
    host: tuple[Cache, HostStore],
) -> None:
    cache, _ = host
    loader = Loader(held=True)
    reading = asyncio.create_task(read(cache, loader))
    await loader.begun.wait()
    for _ in range(100):
        cache.invalidate(["ledger"])
    loader.go.set()
    assert await reading == {"call": 1}
    await settled()
    assert await read(cache, loader) == {"call": 2}


async def test_a_storm_of_invalidations_is_a_few_calls(hosts: Hosts) -> None:
    """An invalidation storm must not starve reads: what comes while one call is under way travels in the next."""
    cache, store = hosts.host()
    store.pause.clear()
    waits = [cache.invalidate([f"tag {number}"]) for number in range(5000)]
    await settled()
    assert cache.snapshot().invalidations_pending == 5000 - 1 or cache.snapshot().invalidations_pending == 0
    store.pause.set()
    await asyncio.gather(*waits)
    assert store.calls.count("invalidate") <= 2


async def test_more_names_than_can_wait_invalidate_everything(hosts: Hosts) -> None:
    cache, store = hosts.host()
    loader = Loader()
    await cache.get_or_load("untouched", loader, ttl_s=60)
    store.pause.clear()
    cache.invalidate(["first"])
    await settled()
    for start in range(0, 20_000, 1000):
        cache.invalidate([f"tag {start + number}" for number in range(1000)])
    assert cache.snapshot().invalidations_pending <= 16_385
    store.pause.set()
    await cache.invalidate(["last"])
    await cache.get_or_load("untouched", loader, ttl_s=60)
    assert loader.calls == 2


async def test_a_put_during_a_load_wins(host: tuple[Cache, HostStore]) -> None:
    """Caffeine refresh_discard_put; FusionCache #625."""
    cache, _ = host
    loader = Loader(held=True)
    reading = asyncio.create_task(read(cache, loader))
    await loader.begun.wait()
    assert await cache.set("a:b:c:d:e", {"put": 1}, ttl_s=60, tags=("ledger",))
    loader.go.set()
    assert await reading == {"call": 1}
    await settled()
    assert await read(cache, loader) == {"put": 1}


async def test_a_put_is_read_by_every_host(hosts: Hosts) -> None:
    (here, _), (there, _) = hosts.host(), hosts.host()
    await here.set("a:b:c:d:e", [1], ttl_s=60, tags=("ledger",))
    assert await there.get("a:b:c:d:e", tags=("ledger",)) == [1]
    await there.set("a:b:c:d:e", [2], ttl_s=60, tags=("ledger",))
    assert await here.get("a:b:c:d:e", tags=("ledger",)) == [2]
    await here.delete("a:b:c:d:e")
    assert await there.get("a:b:c:d:e", "none", tags=("ledger",)) == "none"


async def test_when_most_callers_cancel_the_rest_get_the_value(host: tuple[Cache, HostStore]) -> None:
    """HybridCache MultipleCallsShareExecution_MostCancel."""
    cache, _ = host
    loader = Loader(held=True)
    callers = [asyncio.create_task(read(cache, loader)) for _ in range(20)]
    await loader.begun.wait()
    await settled()
    for caller in callers[1:]:
        caller.cancel()
    await settled()
    loader.go.set()
    assert await callers[0] == {"call": 1}
    assert (loader.calls, loader.cancelled) == (1, 0)


async def test_when_every_caller_cancels_the_load_is_cancelled_and_the_next_one_loads(
    host: tuple[Cache, HostStore],
) -> None:
    """HybridCache MultipleCallsShareExecution_EveryoneCancels; rueidisaside TestWriteCancel."""
    cache, _ = host
    loader = Loader(held=True)
    callers = [asyncio.create_task(read(cache, loader)) for _ in range(20)]
    await loader.begun.wait()
    await settled()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await settled()
    assert (loader.calls, loader.cancelled) == (1, 1)
    loader.go.set()
    assert await read(cache, loader) == {"call": 2}


async def test_who_comes_while_a_load_is_being_cancelled_begins_another(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    loader = Loader(held=True)
    first = asyncio.create_task(read(cache, loader))
    await loader.begun.wait()
    first.cancel()
    await asyncio.sleep(0)
    second = asyncio.create_task(read(cache, loader))
    loader.go.set()
    assert await second == {"call": 2}


async def test_loads_towards_the_database_are_few_at_a_time(hosts: Hosts) -> None:
    cache, _ = hosts.host(options=CacheOptions(loads=2))
    running = most = 0

    async def loader() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await settled(5)
        running -= 1
        return running

    await asyncio.gather(*(cache.get_or_load(f"k{number}", loader, ttl_s=60) for number in range(40)))
    assert most == 2


async def test_a_load_within_a_load_needs_no_place_of_its_own(hosts: Hosts) -> None:
    """Nested reads of as many keys as there are places, each made of the same part: no two wait for each other."""
    cache, _ = hosts.host(options=CacheOptions(loads=2, hard_timeout_s=5))
    part = Loader()

    async def whole(number: int) -> Any:
        async def loader() -> Any:
            await settled(3)
            return [number, await cache.get_or_load("part", part, ttl_s=60)]

        return await cache.get_or_load(f"whole:{number}", loader, ttl_s=60)

    assert await asyncio.gather(*(whole(number) for number in range(6))) == [[n, {"call": 1}] for n in range(6)]
    assert part.calls == 1


async def test_a_load_for_which_a_load_waits_goes_without_a_place(hosts: Hosts) -> None:
    cache, _ = hosts.host(options=CacheOptions(loads=1, hard_timeout_s=5))
    part, go = Loader(), asyncio.Event()

    async def whole() -> Any:
        await go.wait()
        return await cache.get_or_load("part", part, ttl_s=60)

    outer = asyncio.create_task(cache.get_or_load("whole", whole, ttl_s=60))
    await settled()
    outsider = asyncio.create_task(cache.get_or_load("part", part, ttl_s=60))  # waits for the only place
    await settled()
    assert part.calls == 0
    go.set()
    assert await asyncio.gather(outer, outsider) == [{"call": 1}] * 2


async def test_a_loader_that_reads_its_own_entry_is_told_so(hosts: Hosts) -> None:
    cache, _ = hosts.host()

    async def loader() -> Any:
        return await cache.get_or_load("self", loader, ttl_s=60)

    with pytest.raises(RuntimeError, match="the very entry that it loads"):
        await cache.get_or_load("self", loader, ttl_s=60)


async def test_too_many_loads_under_way_are_refused_at_once(hosts: Hosts) -> None:
    cache, _ = hosts.host(options=CacheOptions(flights=3))
    loader = Loader(held=True)
    callers = [asyncio.create_task(cache.get_or_load(f"k{number}", loader, ttl_s=60)) for number in range(3)]
    await settled()
    with pytest.raises(Overloaded):
        await cache.get_or_load("k3", loader, ttl_s=60)
    loader.go.set()
    await asyncio.gather(*callers)


async def test_closing_leaves_no_task(hosts: Hosts) -> None:
    """rueidisaside TestCloseCleanup."""
    cache, store = hosts.host()
    before = asyncio.all_tasks()
    loader = Loader(held=True)
    caller = asyncio.create_task(read(cache, loader))
    await loader.begun.wait()
    cache.invalidate(["ledger"])
    await cache.aclose()
    with pytest.raises(NotReady):
        await caller
    assert asyncio.all_tasks() == before
    assert store.calls.count("invalidate") == 1
