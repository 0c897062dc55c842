"""Many keys in one trip: loads that others join and leave, stale and broken copies among them, and a store that goes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from b1.cache import Cache
from b1.cache.options import CacheOptions, LoadOptions
from b1.cache.reading.limits import within
from b1.clock import DEADLINE, ManualClock
from b1.errors import DeadlineExceeded, NotReady, Overloaded
from tests.cache.hosts import Hosts, HostStore, Loader, settled
from tests.cache.test_cache_many import KEYS, VALUES, ManyLoader


@pytest.fixture
async def hosts(clock: ManualClock) -> AsyncIterator[Hosts]:
    made = Hosts(clock)
    yield made
    for cache in made.made:
        await cache.aclose()


async def _stored(hosts: Hosts, keys: list[str] = KEYS, **how: Any) -> None:
    """Put the values into the store alone."""
    cache, _ = hosts.host()
    await cache.get_many(keys, ManyLoader(), **{"ttl_s": 60, **how})
    await settled(60)


@pytest.fixture(params=[True, False], ids=["hears", "asks"])
async def there(request: pytest.FixtureRequest, hosts: Hosts) -> tuple[Cache, HostStore]:
    return hosts.host(hears=request.param)


async def test_what_the_store_has_takes_one_trip_and_no_load(hosts: Hosts, there: tuple[Cache, HostStore]) -> None:
    cache, store = there
    await _stored(hosts)
    before = len(store.trips)
    loader = ManyLoader()
    assert await cache.get_many(KEYS, loader, ttl_s=60) == VALUES
    assert (len(store.trips) - before, store.trips[-1], loader.asked) == (1, len(KEYS), [])
    snapshot = cache.snapshot()
    assert (snapshot.l2_hits, snapshot.hits, snapshot.misses, snapshot.loads) == (len(KEYS), len(KEYS), 0, 0)


async def test_what_is_held_here_is_proven_in_one_trip_where_nothing_is_pushed(hosts: Hosts) -> None:
    cache, store = hosts.host(hears=False)
    for _ in range(2):
        assert await cache.get_many(KEYS, ManyLoader(), ttl_s=60) == VALUES
        await settled(60)
    assert (store.trips[-1], cache.snapshot().l1_hits) == (len(KEYS), len(KEYS))


async def test_without_a_loader_one_trip_brings_what_is_there(hosts: Hosts, there: tuple[Cache, HostStore]) -> None:
    cache, store = there
    await _stored(hosts, KEYS[:5])
    assert await cache.get_many(KEYS[:8]) == {key: VALUES[key] for key in KEYS[:5]}
    assert (store.trips, cache.snapshot().misses) == ([8], 3)


async def test_a_single_read_joins_a_key_whose_trip_is_under_way(hosts: Hosts) -> None:
    cache, store = hosts.host()
    await _stored(hosts)
    store.pause.clear()
    many = asyncio.create_task(cache.get_many(KEYS, ManyLoader(), ttl_s=60))
    await settled()
    single = Loader()
    joined = asyncio.create_task(cache.get_or_load(KEYS[3], single, ttl_s=60))
    await settled()
    store.pause.set()
    assert (await joined, single.calls, await many) == (VALUES[KEYS[3]], 0, VALUES)
    assert (store.trips, cache.snapshot().joined) == ([len(KEYS)], 1)


async def test_who_joined_a_trip_has_its_value_when_those_who_began_it_were_cancelled(hosts: Hosts) -> None:
    cache, store = hosts.host()
    await _stored(hosts, KEYS[:10])
    store.pause.clear()
    many = asyncio.create_task(cache.get_many(KEYS, ManyLoader(), ttl_s=60))
    await settled()
    there, missing = Loader(), Loader()
    found = asyncio.create_task(cache.get_or_load(KEYS[3], there, ttl_s=60))
    loaded = asyncio.create_task(cache.get_or_load(KEYS[13], missing, ttl_s=60))
    await settled()
    many.cancel()
    await settled()
    store.pause.set()
    assert await found == VALUES[KEYS[3]]
    assert await loaded == VALUES[KEYS[13]]  # by the loader of the load that it joined
    assert (there.calls, missing.calls) == (0, 0)


async def test_leases_that_come_for_nobody_are_given_up(hosts: Hosts, clock: ManualClock) -> None:
    cache, store = hosts.host()
    other, _ = hosts.host()
    store.pause.clear()
    many = asyncio.create_task(cache.get_many(KEYS[:3], ManyLoader(), ttl_s=60))
    alone = asyncio.create_task(cache.get_or_load("alone", Loader(), ttl_s=60))
    await settled()
    for task in (many, alone):
        task.cancel()
    await settled()
    store.pause.set()
    await settled(60)
    assert (store.calls.count("give up"), cache.snapshot().loads_running) == (4, 0)
    loader = ManyLoader()
    assert await other.get_many(KEYS[:3], loader, ttl_s=60) == {key: VALUES[key] for key in KEYS[:3]}
    assert loader.asked == [KEYS[:3]]


async def test_what_another_host_loads_is_waited_for_and_the_rest_is_loaded(hosts: Hosts) -> None:
    (cache, _), (other, _) = hosts.host(), hosts.host()
    elsewhere, loader = Loader(held=True), ManyLoader()
    first = asyncio.create_task(other.get_or_load(KEYS[0], elsewhere, ttl_s=60))
    await elsewhere.begun.wait()
    many = asyncio.create_task(cache.get_many(KEYS[:4], loader, ttl_s=60))
    await loader.begun.wait()
    assert loader.asked == [KEYS[1:4]]
    elsewhere.go.set()
    assert await many == {KEYS[0]: {"call": 1}, **{key: VALUES[key] for key in KEYS[1:4]}}
    assert await first == {"call": 1}


async def test_two_batches_that_overlap_load_each_key_once(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    first, second = ManyLoader(), ManyLoader()
    one, two = await asyncio.gather(
        cache.get_many(KEYS[:12], first, ttl_s=60), cache.get_many(KEYS[8:], second, ttl_s=60)
    )
    assert {**one, **two} == VALUES
    assert sorted(key for keys in (*first.asked, *second.asked) for key in keys) == sorted(KEYS)


async def test_an_invalidation_during_the_trip_keeps_nothing_of_it(hosts: Hosts) -> None:
    cache, store = hosts.host()
    await _stored(hosts)
    store.pause.clear()
    many = asyncio.create_task(cache.get_many(KEYS, ManyLoader(), ttl_s=60))
    await settled()
    gone = asyncio.ensure_future(cache.invalidate(prefixes=["user"]))
    later = asyncio.create_task(cache.get_or_load(KEYS[3], Loader(), ttl_s=60))
    await settled()
    store.pause.set()
    await gone
    assert await many == VALUES  # it began before
    assert await later == {"call": 1}
    assert await cache.get_many([key for key in KEYS if key != KEYS[3]]) == {}


async def test_stale_copies_are_served_while_one_call_loads_them_anew(hosts: Hosts, clock: ManualClock) -> None:
    options = LoadOptions(stale_s=600)
    cache, _ = hosts.host()
    await cache.get_many(KEYS[:5], ManyLoader(), ttl_s=60, options=options)
    await settled(60)
    clock.advance(61)
    loader = ManyLoader()
    assert await cache.get_many(KEYS, loader, ttl_s=60, options=options) == VALUES
    await settled(60)
    assert cache.snapshot().stale["revalidate"] == 5
    assert sorted(key for keys in loader.asked for key in keys) == sorted(KEYS)


async def test_a_store_that_goes_in_the_middle_is_gone_without_and_not_asked_again_for_each(hosts: Hosts) -> None:
    cache, store = hosts.host()
    await _stored(hosts)
    store.is_away = True
    loader = ManyLoader()
    assert await cache.get_many(KEYS, loader, ttl_s=60) == VALUES
    assert (loader.asked, store.calls.count("enter")) == ([KEYS], 1)
    assert await cache.get_many(KEYS, loader, ttl_s=60) == VALUES
    assert len(loader.asked) == 1


async def test_a_stand_in_that_answers_for_the_store_is_not_believed(hosts: Hosts) -> None:
    cache, store = hosts.host()
    await _stored(hosts)
    store.stands_in = hosts.common
    loader = ManyLoader()
    assert await cache.get_many(KEYS, loader, ttl_s=60) == VALUES
    assert loader.asked == [KEYS]


async def test_a_store_that_does_not_answer_in_time_is_gone_without(hosts: Hosts) -> None:
    cache, store = hosts.host(options=CacheOptions(store_timeout_s=0.02))
    store.pause.clear()
    loader = ManyLoader()
    assert await cache.get_many(KEYS, loader, ttl_s=60) == VALUES
    assert cache.snapshot().errors["store"] >= 1
    store.pause.set()


async def test_the_callers_deadline_ends_the_wait_for_the_trip(hosts: Hosts, clock: ManualClock) -> None:
    cache, store = hosts.host()
    store.pause.clear()
    token = DEADLINE.set(clock.monotonic())
    with pytest.raises(DeadlineExceeded):
        await cache.get_many(KEYS, ManyLoader(), ttl_s=60)
    DEADLINE.reset(token)
    store.pause.set()
    await settled(60)
    assert cache.snapshot().loads_running == 0


async def test_closing_in_the_middle_of_a_trip_tells_who_waits(hosts: Hosts) -> None:
    cache, store = hosts.host()
    store.pause.clear()
    many = asyncio.create_task(cache.get_many(KEYS, ManyLoader(), ttl_s=60))
    await settled()
    await cache.aclose()
    with pytest.raises(NotReady):
        await many
    store.pause.set()


async def test_more_loads_than_may_run_are_refused_before_anything_is_asked(hosts: Hosts) -> None:
    cache, store = hosts.host(options=CacheOptions(flights=10))
    with pytest.raises(Overloaded):
        await cache.get_many(KEYS, ManyLoader(), ttl_s=60)
    assert (store.calls, cache.snapshot().loads_running) == ([], 0)


@pytest.mark.parametrize("key", ["a", ":a", "a:", "a::b", "a:b", "a:b:c", "a:b:c:d", "a:b:c:d:e", "ä:ö"])
async def test_keys_have_the_same_tags_in_a_batch_as_alone(key: str, hosts: Hosts) -> None:
    (cache, _), (other, _) = hosts.host(), hosts.host()
    loader = ManyLoader()
    for organization in (None, "7"):
        how: Any = {"ttl_s": 60, "tags": ["t", "u"], "organization": organization}
        await cache.get_many(["first:one", key], loader, **how)
        await settled(60)
        assert await other.get_or_load(key, Loader(), **how) == f"value of {key}"
        assert cache.l1.built_on(key if organization is None else f"7\x1e{key}").tags == (
            other.l1.built_on(key if organization is None else f"7\x1e{key}").tags
        )


async def test_reads_of_one_turn_travel_together(hosts: Hosts) -> None:
    cache, store = hosts.host()
    await asyncio.gather(*(cache.get_or_load(key, Loader(), ttl_s=60) for key in KEYS))
    assert store.trips == [len(KEYS)]


async def test_a_limit_ends_its_call_alone() -> None:
    with pytest.raises(TimeoutError):
        await within(asyncio.Event().wait(), 0.01)
    assert await within(asyncio.sleep(0, "in time"), 60) == "in time"
    waiting = asyncio.create_task(within(asyncio.Event().wait(), 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
