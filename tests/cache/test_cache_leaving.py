"""Many keys whose reader goes: nothing is loaded for nobody, and no lease is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from b1.cache.options import CacheOptions
from b1.cache.reading.writing import Writing
from b1.clock import DEADLINE, ManualClock
from b1.errors import NotReady, Overloaded
from b1.store.base import CacheWrite
from tests.cache.hosts import Hosts, Loader, settled
from tests.cache.test_cache_many import KEYS, VALUES, ManyLoader

MANY = [f"user:{number}" for number in range(300)]


@pytest.fixture
async def hosts(clock: ManualClock) -> AsyncIterator[Hosts]:
    made = Hosts(clock)
    yield made
    for cache in made.made:
        await cache.aclose()


class Held:
    """A loader of many that waits until `go`."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []
        self.running = self.most = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, keys: Sequence[str]) -> dict[str, Any]:
        self.asked.append(list(keys))
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        return {key: VALUES.get(key, key) for key in keys}


async def _leases(hosts: Hosts, keys: Sequence[str]) -> int:
    """Say how many of the keys somebody seems to load."""
    other, store = hosts.host()
    store.calls.clear()
    loader = Held()
    loader.go.set()
    many = asyncio.create_task(other.get_many(keys, loader, ttl_s=60))
    await settled(60)
    many.cancel()
    await asyncio.gather(many, return_exceptions=True)
    return len(keys) - sum(len(asked) for asked in loader.asked)


@pytest.mark.parametrize("hears", [True, False], ids=["hears", "asks"])
async def test_a_batch_whose_reader_went_is_not_loaded_key_by_key(hears: bool, hosts: Hosts) -> None:
    cache, _ = hosts.host(hears=hears)
    loader = Held()
    many = asyncio.create_task(cache.get_many(KEYS, loader, ttl_s=60))
    await loader.begun.wait()
    many.cancel()
    await settled(60)
    assert ([KEYS], 0, 0) == (loader.asked, loader.running, cache.snapshot().loads_running)


@pytest.mark.parametrize("hears", [True, False], ids=["hears", "asks"])
async def test_all_leases_of_a_reader_that_went_are_given_up_however_many(hears: bool, hosts: Hosts) -> None:
    cache, _ = hosts.host(hears=hears)
    loader = Held()
    many = asyncio.create_task(cache.get_many(MANY, loader, ttl_s=60))
    await loader.begun.wait()
    many.cancel()
    await settled(60)
    assert 0 == await _leases(hosts, MANY)


@pytest.mark.parametrize("hears", [True, False], ids=["hears", "asks"])
async def test_leases_that_come_after_their_reader_went_are_given_up(hears: bool, hosts: Hosts) -> None:
    cache, store = hosts.host(hears=hears)
    store.pause.clear()
    many = asyncio.create_task(cache.get_many(KEYS, Held(), ttl_s=60))
    await settled()
    many.cancel()
    await settled()
    store.pause.set()
    await settled(60)
    assert 0 == await _leases(hosts, KEYS)


async def test_a_reader_with_a_deadline_leaves_no_lease_either(hosts: Hosts, clock: ManualClock) -> None:
    cache, store = hosts.host(hears=False)
    store.pause.clear()
    token = DEADLINE.set(clock.monotonic() + 60)
    one = asyncio.create_task(cache.get_or_load("user:1", Loader(), ttl_s=60))
    DEADLINE.reset(token)
    await settled()
    one.cancel()
    await settled()
    store.pause.set()
    await settled(60)
    assert 0 == await _leases(hosts, ["user:1"])


async def test_a_load_that_is_refused_keeps_no_lease(hosts: Hosts) -> None:
    cache, _ = hosts.host(hears=False, options=CacheOptions(flights=2))
    blocking = Loader(held=True)
    two = [asyncio.create_task(cache.get_or_load(f"a:{n}", blocking, ttl_s=60)) for n in range(2)]
    await settled()
    with pytest.raises(Overloaded):
        await cache.get_or_load("user:1", Loader(), ttl_s=60)
    with pytest.raises(Overloaded):
        await cache.get_many(KEYS[2:], ManyLoader(), ttl_s=60)
    await settled(60)
    blocking.go.set()
    await asyncio.gather(*two)
    assert 0 == await _leases(hosts, KEYS[1:])


async def test_batches_take_places_like_any_load(hosts: Hosts) -> None:
    cache, _ = hosts.host(options=CacheOptions(loads=2))
    loader = Held()
    reads = [asyncio.create_task(cache.get_many(KEYS[at : at + 2], loader, ttl_s=60)) for at in range(0, 12, 2)]
    await settled(60)
    assert (2, 2) == (loader.running, loader.most)
    loader.go.set()
    await asyncio.gather(*reads)
    assert (2, 6) == (loader.most, len(loader.asked))


@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_batch_inside_a_load_needs_no_place_of_its_own(is_shared: bool, hosts: Hosts) -> None:
    cache, store = hosts.host(options=CacheOptions(loads=1))
    store.mode = "redis" if is_shared else "local"

    async def outer() -> dict[str, Any]:
        return await cache.get_many(KEYS[:3], ManyLoader(), ttl_s=60)

    async with asyncio.timeout(5):
        assert {key: VALUES[key] for key in KEYS[:3]} == await cache.get_or_load("outer", outer, ttl_s=60)


async def test_a_load_that_waits_for_a_batch_lets_it_go_without_a_place(hosts: Hosts) -> None:
    cache, _ = hosts.host(options=CacheOptions(loads=1))
    begun, go = asyncio.Event(), asyncio.Event()

    async def outer() -> Any:
        begun.set()
        await go.wait()
        return await cache.get_or_load(KEYS[0], Loader(), ttl_s=60)

    first = asyncio.create_task(cache.get_or_load("outer", outer, ttl_s=60))
    await begun.wait()
    loader = ManyLoader()
    many = asyncio.create_task(cache.get_many(KEYS[:3], loader, ttl_s=60))
    await settled(30)
    assert [] == loader.asked
    go.set()
    async with asyncio.timeout(2):
        assert VALUES[KEYS[0]] == await first
        await many


async def test_a_batch_that_reads_one_of_its_own_keys_is_told_so(hosts: Hosts) -> None:
    cache, _ = hosts.host()

    async def loader(keys: Sequence[str]) -> dict[str, Any]:
        return {key: await cache.get_or_load(KEYS[1], Loader(), ttl_s=60) for key in keys}

    with pytest.raises(RuntimeError, match="reads the very entry"):
        await cache.get_many(KEYS[:5], loader, ttl_s=60)


async def test_closing_leaves_no_lease(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    loader = Held()
    many = asyncio.create_task(cache.get_many(MANY, loader, ttl_s=60))
    await loader.begun.wait()
    await cache.aclose()
    with pytest.raises(NotReady):
        await many
    assert 0 == await _leases(hosts, MANY)


async def test_a_closed_cache_begins_no_call(hosts: Hosts) -> None:
    cache, store = hosts.host()
    getting = asyncio.create_task(cache.get("user:1"))
    await asyncio.sleep(0)
    await cache.aclose()
    assert await getting is None
    before = len(store.calls)
    assert await cache.get("user:2") is None
    assert before == len(store.calls)
    assert [] == [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("b1-cache")]


async def test_an_invalidation_does_not_end_with_the_deadline_of_the_request_that_wrote(
    hosts: Hosts, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, store = hosts.host()
    seen: list[float | None] = []
    invalidate = store.invalidate

    async def seeing(*args: Any, **more: Any) -> None:
        seen.append(DEADLINE.get())
        await invalidate(*args, **more)

    monkeypatch.setattr(store, "invalidate", seeing)
    token = DEADLINE.set(clock.monotonic())
    done = cache.invalidate(["t"])
    DEADLINE.reset(token)
    await done
    assert [None] == seen


async def test_many_broken_copies_are_loaded_after_one_more_trip(hosts: Hosts) -> None:
    writer, _ = hosts.host()
    await writer.get_many(KEYS, ManyLoader(), ttl_s=60)
    await settled(60)
    for name, entry in list(hosts.common.entries._entries.items()):
        hosts.common.entries._entries[name] = entry._replace(value=b"not an envelope")
    cache, store = hosts.host()
    loader = ManyLoader()
    assert VALUES == await cache.get_many(KEYS, loader, ttl_s=60)
    assert ([len(KEYS), len(KEYS)], [KEYS]) == (store.trips, loader.asked)


async def test_values_on_their_way_to_a_store_that_hangs_are_bounded(hosts: Hosts) -> None:
    _, store = hosts.host()
    store.pause.clear()
    writing = Writing(store.store_many, lambda reason: refused.append(reason))
    refused: list[str] = []
    vector = store.common.versions.vector(("t",))
    for number in range(20):
        writing.send(CacheWrite(f"cache:{number}", bytes(2**20), ("t",), vector, 1000))
        await asyncio.sleep(0)
    assert ["no_room"] * 4 == refused
    store.pause.set()
    await settled()
    assert (["no_room"] * 4, 16, 4) == (refused[:4], store.calls.count("store"), store.calls.count("give up"))
    assert "held=0 B" in repr(writing)
    await writing.aclose(1.0)
    writing.send(CacheWrite("cache:late", b"v", ("t",), vector, 1000))
    await settled()
    assert 20 == len(store.calls)
