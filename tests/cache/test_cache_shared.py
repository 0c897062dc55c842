"""The second copy: the lease between hosts, what comes from it, what goes there, and the time without it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from b1.cache import Cache, CacheOptions, LoadOptions
from b1.cache.packing.dictionaries import SAMPLES
from b1.cache.reading.shared import store_key
from b1.clock import ManualClock
from b1.store.memory import MemoryStore
from tests.cache.hosts import Hosts, HostStore, Loader, settled

STALE = LoadOptions(stale_s=600.0)


@pytest.fixture
async def hosts(clock: ManualClock) -> AsyncIterator[Hosts]:
    made = Hosts(clock)
    yield made
    for cache in made.made:
        await cache.aclose()


async def read(cache: Cache, loader: Any, key: str = "user:1", **how: Any) -> Any:
    how.setdefault("ttl_s", 60)
    return await cache.get_or_load(key, loader, tags=("users",), **how)


async def spoil(hosts: Hosts, store: HostStore, envelope: bytes, key: str = "user:1") -> None:
    """Put something else in the place of an entry; it is current."""
    read = next(one for one in reversed(store.reads) if one.key == store_key(key, None))
    vector = hosts.common.versions.vector(read.tags)
    assert read.key is not None
    assert await hosts.common.store_if_unchanged(read.key, envelope, tags=read.tags, vector=vector, ttl_ms=60_000)


async def test_what_one_host_loaded_the_other_reads_in_one_trip(hosts: Hosts) -> None:
    (here, _), (there, store) = hosts.host(), hosts.host()
    loader = Loader()
    await read(here, loader)
    assert await read(there, loader) == {"call": 1}
    assert (store.calls, loader.calls) == (["enter"], 1)
    assert await read(there, loader) == {"call": 1}
    assert (store.calls, there.snapshot().l2_hits, there.snapshot().l1_hits) == (["enter"], 1, 1)


async def test_a_load_is_a_trip_before_it_and_one_after_it(hosts: Hosts) -> None:
    cache, store = hosts.host()
    await read(cache, Loader())
    await settled()
    assert store.calls == ["enter", "store"]


async def test_the_value_is_there_before_the_shared_store_has_it(hosts: Hosts) -> None:
    cache, store = hosts.host()
    loader = Loader(held=True)
    reading = asyncio.create_task(read(cache, loader))
    await loader.begun.wait()
    store.pause.clear()
    loader.go.set()
    assert await reading == {"call": 1}
    store.pause.set()
    await settled()
    assert store.calls == ["enter", "store"]


async def test_while_one_host_loads_the_other_waits_for_it(hosts: Hosts) -> None:
    (here, _), (there, _) = hosts.host(), hosts.host()
    loader = Loader(held=True)
    first = asyncio.create_task(read(here, loader))
    await loader.begun.wait()
    second = [asyncio.create_task(read(there, loader)) for _ in range(10)]
    await settled()
    loader.go.set()
    assert await asyncio.gather(first, *second) == [{"call": 1}] * 11
    assert loader.calls == 1


async def test_a_lease_whose_holder_is_gone_is_the_next_hosts(hosts: Hosts, clock: ManualClock) -> None:
    """The bound of the wait is the lease: then the waiting host loads itself."""
    (here, store), (there, _) = hosts.host(), hosts.host()
    lost, loader = Loader(held=True), Loader()
    first = asyncio.create_task(read(here, lost))
    await lost.begun.wait()
    store.is_away = True
    first.cancel()
    waiting = asyncio.create_task(read(there, loader))
    await settled()
    assert not waiting.done()
    clock.advance(5.1)
    assert await waiting == {"call": 1}


async def test_a_load_that_fails_gives_the_lease_back(hosts: Hosts) -> None:
    (here, store), (there, _) = hosts.host(), hosts.host()
    failing = Loader()
    failing.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        await read(here, failing)
    await settled()
    assert store.calls == ["enter", "give up"]
    assert await read(there, Loader()) == {"call": 1}


async def test_a_cancelled_load_gives_the_lease_back(hosts: Hosts) -> None:
    (here, store), (there, _) = hosts.host(), hosts.host()
    loader = Loader(held=True)
    reading = asyncio.create_task(read(here, loader))
    await loader.begun.wait()
    reading.cancel()
    await settled()
    assert store.calls == ["enter", "give up"]
    assert await read(there, Loader()) == {"call": 1}


async def test_a_stale_value_of_the_shared_store_is_served_while_the_lease_holder_loads(
    hosts: Hosts, clock: ManualClock
) -> None:
    (here, _), (there, _), (third, _) = hosts.host(), hosts.host(), hosts.host()
    loader = Loader()
    await read(here, loader, options=STALE)
    await settled()
    loader.go.clear()
    clock.advance(61)
    assert await read(there, loader, options=STALE) == {"call": 1}
    assert await read(third, loader, options=STALE) == {"call": 1}
    await settled()
    assert loader.calls == 2
    loader.go.set()
    await settled(50)
    assert await read(there, loader, options=STALE) == {"call": 2}


async def test_hosts_reload_before_the_end_one_at_a_time(hosts: Hosts, clock: ManualClock) -> None:
    (here, _), (there, _) = hosts.host(), hosts.host()
    loader = Loader(clock, takes_s=10.0)
    await read(here, loader)
    await settled()
    await read(there, loader)
    loader.go.clear()
    clock.advance(54)
    assert [await read(cache, loader) for cache in (here, there)] == [{"call": 1}] * 2
    await settled()
    assert loader.calls == 2
    loader.go.set()
    await settled(50)
    assert await read(here, loader) == {"call": 2}


async def test_a_host_that_wants_to_reload_takes_what_another_has_reloaded(hosts: Hosts, clock: ManualClock) -> None:
    (here, _), (there, _) = hosts.host(), hosts.host()
    loader = Loader(clock, takes_s=10.0)
    await read(here, loader)
    await settled()
    await read(there, loader)
    clock.advance(54)
    await read(here, loader)
    await settled()
    assert loader.calls == 2
    await read(there, loader)
    await settled()
    assert (await read(there, loader), loader.calls) == ({"call": 2}, 2)


@pytest.mark.parametrize(
    ("envelope", "cause"), [(b"", "gibberish"), (b"gibberish" * 20, "gibberish"), (b"b1\x07" + bytes(60), "version")]
)
async def test_what_is_no_envelope_is_a_miss_and_a_number(hosts: Hosts, envelope: bytes, cause: str) -> None:
    (here, store), (there, _) = hosts.host(), hosts.host()
    loader = Loader()
    await read(here, loader)
    await settled()
    await spoil(hosts, store, envelope)
    assert await read(there, loader) == {"call": 2}
    assert there.snapshot().errors[cause] == 1
    await settled()
    third, _ = hosts.host()
    assert await read(third, loader) == {"call": 2}


async def test_another_keys_envelope_is_a_miss(hosts: Hosts) -> None:
    """HybridCache MalformedKeyDetected: a value moved under another key is never given out."""
    (here, store), (there, _) = hosts.host(), hosts.host()
    mine, others = Loader(), Loader()
    others.calls = 100
    await read(here, others, "user:2")
    await settled()
    answer = await hosts.common.enter([], read=store.reads[-1])
    assert answer.cache is not None and answer.cache.value is not None
    await read(here, mine)
    await settled()
    await spoil(hosts, store, answer.cache.value)
    assert await read(there, mine) == {"call": 2}
    assert there.snapshot().errors["other_key"] == 1


@pytest.mark.parametrize("hears", [True, False])
async def test_without_the_shared_store_each_host_goes_on_alone(hosts: Hosts, hears: bool) -> None:
    """HybridCache UnreliableL2Tests: failures of the second copy are invisible."""
    cache, store = hosts.host(hears=hears)
    loader = Loader()
    store.is_away = True
    assert await read(cache, loader) == {"call": 1}
    store.mode = "local"
    assert [await read(cache, loader) for _ in range(3)] == [{"call": 1}] * 3
    assert await read(cache, loader, "user:2") == {"call": 2}
    assert cache.snapshot().errors["store"] >= 1


@pytest.mark.parametrize("hears", [True, False])
async def test_in_the_moment_in_which_redis_goes_what_is_here_is_served_and_what_is_not_is_kept(
    hosts: Hosts, hears: bool, clock: ManualClock
) -> None:
    cache, store = hosts.host(hears=hears)
    loader = Loader()
    await read(cache, loader)
    await settled()
    store.stands_in = MemoryStore(2**20, clock)
    assert await read(cache, loader) == {"call": 1}
    store.mode = "redis"  # nobody has noticed yet
    for _ in range(2):
        assert await read(cache, loader, "user:2") == {"call": 2}
    assert store.calls.count("store") == 1


async def test_a_store_that_does_not_answer_holds_up_a_read_for_its_timeout_alone(hosts: Hosts) -> None:
    cache, store = hosts.host(options=CacheOptions(store_timeout_s=0.02))
    store.pause.clear()
    assert await read(cache, Loader()) == {"call": 1}
    assert cache.snapshot().errors["store"] >= 1
    store.pause.set()


async def test_an_invalidation_that_does_not_reach_the_store_is_told_to_who_awaits_it(hosts: Hosts) -> None:
    cache, store = hosts.host()
    store.is_away = True
    with pytest.raises(Exception, match="away"):
        await cache.invalidate(["users"])
    cache.invalidate(["users"])  # and is nobody's unretrieved exception
    await settled()


async def test_a_value_that_is_too_large_is_answered_and_not_kept(hosts: Hosts) -> None:
    """dotnet #57925, #5432: an oversize value must not be the caller's exception."""
    cache, store = hosts.host(options=CacheOptions(value_limit_bytes=1000))
    calls = 0

    async def loader() -> str:
        nonlocal calls
        calls += 1
        return "x" * 2000

    for _ in range(2):
        assert len(await cache.get_or_load("large", loader, ttl_s=60)) == 2000
    await settled()
    assert (calls, cache.snapshot().refused["too_large"]) == (2, 2)
    assert store.calls == ["enter", "give up"] * 2


async def test_an_envelope_that_is_too_large_stays_in_its_process(hosts: Hosts) -> None:
    cache, store = hosts.host(options=CacheOptions(shared_limit_bytes=1000, compress_from_bytes=10**9))

    async def loader() -> str:
        return "x" * 2000

    for _ in range(2):
        await cache.get_or_load("large", loader, ttl_s=60)
        await settled()
    assert store.calls == ["enter", "give up"]


async def test_values_are_compressed_where_it_pays(hosts: Hosts) -> None:
    (here, store), (there, _) = hosts.host(), hosts.host()

    async def loader() -> list[str]:
        return ["the same again"] * 500

    value = await here.get_or_load("list", loader, ttl_s=60)
    await settled()
    stored = (await hosts.common.enter([], read=store.reads[0])).cache
    assert stored is not None and stored.value is not None and len(stored.value) < 500
    assert await there.get_or_load("list", loader, ttl_s=60) == value


async def test_bytes_come_back_as_bytes_from_everywhere(hosts: Hosts) -> None:
    """cashews turns b"123" into a number."""
    (here, _), (there, _) = hosts.host(), hosts.host()

    async def loader() -> bytes:
        return b"123"

    for cache in (here, here, there, there):
        assert await cache.get_or_load("raw", loader, ttl_s=60) == b"123"
        await settled()


async def test_a_hot_value_lives_in_its_process_alone(hosts: Hosts, clock: ManualClock) -> None:
    cache, store = hosts.host()
    loader = Loader()
    assert [await read(cache, loader, ttl="hot", ttl_s=None) for _ in range(3)] == [{"call": 1}] * 3
    await settled()
    assert store.calls == []
    clock.advance(301)
    assert await read(cache, loader, ttl="hot", ttl_s=None) == {"call": 2}


async def test_a_warm_value_is_asked_for_again_when_it_has_been_here_for_five_minutes(
    hosts: Hosts, clock: ManualClock
) -> None:
    cache, store = hosts.host()
    loader = Loader()
    for _ in range(3):
        assert await read(cache, loader, ttl="warm", ttl_s=None) == {"call": 1}
        await settled()
        clock.advance(301)
    assert (store.calls.count("enter"), loader.calls) == (3, 1)
    clock.advance(3600)
    assert await read(cache, loader, ttl="warm", ttl_s=None) == {"call": 2}


async def test_a_cold_value_comes_here_with_its_second_read(hosts: Hosts) -> None:
    (here, _), (there, store) = hosts.host(), hosts.host()
    loader = Loader()
    await read(here, loader, ttl="cold", ttl_s=None)
    await settled()
    for _ in range(4):
        assert await read(there, loader, ttl="cold", ttl_s=None) == {"call": 1}
        await settled()
    assert (store.calls.count("enter"), loader.calls) == (2, 1)


async def test_what_is_much_read_stays_longer_up_to_a_day(hosts: Hosts, clock: ManualClock) -> None:
    cache, store = hosts.host(options=CacheOptions(promote_reads=5))
    loader = Loader()

    async def read_much() -> Any:
        value: Any = None
        for _ in range(8):
            value = await read(cache, loader, ttl="warm", ttl_s=None)
        await settled()
        return value

    for _ in range(60):
        assert await read_much() == {"call": 1}
        clock.advance(1440)
    assert cache.snapshot().promoted > 10
    clock.advance(3600)
    assert await read_much() == {"call": 2}
    assert store.calls.count("store") > 10


async def test_a_time_in_seconds_is_a_promise_and_is_not_extended(hosts: Hosts, clock: ManualClock) -> None:
    cache, _ = hosts.host(options=CacheOptions(promote_reads=5))
    loader = Loader()
    for expected in (1, 1, 2):
        for _ in range(20):
            assert await read(cache, loader, ttl_s=3600) == {"call": expected}
        await settled()
        clock.advance(1801)
    assert cache.snapshot().promoted == 0


async def test_a_copy_with_other_tags_is_not_kept_here(hosts: Hosts) -> None:
    """The store knows on what an entry depends; a copy put with fewer tags would miss an invalidation."""
    (here, _), (there, store) = hosts.host(), hosts.host()
    loader = Loader()
    await here.get_or_load("k", loader, ttl_s=60, tags=("ledger",))
    await settled()
    for _ in range(2):
        assert await there.get_or_load("k", loader, ttl_s=60) == {"call": 1}
    assert store.calls == ["enter", "enter"]
    await here.invalidate(["ledger"])
    assert await there.get_or_load("k", loader, ttl_s=60) == {"call": 2}


async def test_over_a_connection_without_pushes_a_copy_is_asked_about_and_not_sent_again(hosts: Hosts) -> None:
    cache, store = hosts.host(hears=False)
    loader = Loader()
    for _ in range(4):
        assert await read(cache, loader) == {"call": 1}
        await settled()
    assert (loader.calls, store.calls) == (1, ["enter", "store", "enter", "enter", "enter"])
    assert [one.held is not None for one in store.reads] == [False, True, True, True]


async def test_a_hot_value_without_pushes_is_asked_about_too(hosts: Hosts) -> None:
    (here, _), (there, store) = hosts.host(hears=False), hosts.host(hears=False)
    loader = Loader()
    for _ in range(3):
        assert await read(there, loader, ttl="hot", ttl_s=None) == {"call": 1}
    await here.invalidate(["users"])
    assert await read(there, loader, ttl="hot", ttl_s=None) == {"call": 2}
    assert {one.key for one in store.reads} == {None}


async def test_concurrent_readers_without_pushes_share_one_load(hosts: Hosts) -> None:
    cache, _ = hosts.host(hears=False)
    loader = Loader(held=True)
    readers = [asyncio.create_task(read(cache, loader)) for _ in range(50)]
    await loader.begun.wait()
    await settled()
    loader.go.set()
    assert await asyncio.gather(*readers) == [{"call": 1}] * 50
    assert loader.calls == 1


async def test_background_loads_run_in_the_background_class(clock: ManualClock, hosts: Hosts) -> None:
    from contextlib import contextmanager

    inside: list[bool] = []
    is_background = False

    @contextmanager
    def background() -> Any:
        nonlocal is_background
        is_background = True
        yield
        is_background = False

    cache, _ = hosts.host(background=background)

    async def loader() -> int:
        inside.append(is_background)
        return 1

    await read(cache, loader, options=STALE)
    await settled()
    clock.advance(61)
    await read(cache, loader, options=STALE)
    await settled()
    assert inside == [False, True]


@pytest.mark.parametrize("hears", [True, False])
async def test_a_host_reloads_before_the_end_with_and_without_pushes(
    hosts: Hosts, clock: ManualClock, hears: bool
) -> None:
    cache, _ = hosts.host(hears=hears)
    loader = Loader(clock, takes_s=10.0)
    await read(cache, loader)
    await settled()
    clock.advance(54)
    assert await read(cache, loader) == {"call": 1}
    await settled(50)
    assert await read(cache, loader) == {"call": 2}


async def test_what_cannot_get_small_enough_is_not_compressed(hosts: Hosts) -> None:
    cache, store = hosts.host(options=CacheOptions(shared_limit_bytes=1000))

    async def loader() -> str:
        return "x" * 9000

    await cache.get_or_load("large", loader, ttl_s=60)
    await settled()
    assert (store.calls, cache.snapshot().refused["too_large"]) == (["enter", "give up"], 1)


async def test_a_dictionary_that_one_host_trained_is_fetched_by_the_other(hosts: Hosts) -> None:
    """An unknown dictionary is one miss, and then it is known."""
    (here, _), (there, _) = hosts.host(), hosts.host()

    def user(number: int) -> dict[str, Any]:
        return {
            "id": number,
            "organizationId": number % 7,
            "displayName": f"Ann {number}",
            "role": "MEMBER",
            "isActive": True,
        }

    for number in range(SAMPLES + 1):
        await here.set(f"user:{number}", user(number), ttl_s=600)
    async with asyncio.timeout(20):
        while not here.snapshot().dictionaries:
            await asyncio.sleep(0.01)
    await settled()
    await here.set("user:a", user(1), ttl_s=600)
    await here.set("user:b", user(2), ttl_s=600)
    assert await there.get("user:a") is None
    await settled(50)
    assert (await there.get("user:a"), await there.get("user:b")) == (user(1), user(2))
    assert (there.snapshot().dictionaries, there.snapshot().errors["dictionary"]) == (1, 1)
