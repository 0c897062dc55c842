"""One load per key, and never a value that was invalidated while it loaded."""

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from b1.asgi.endpoints.caches import readable
from b1.cache import L1, Cache
from b1.clock import DEADLINE, ManualClock
from b1.errors import DeadlineExceeded, NotReady


@pytest.fixture
def cache(clock: ManualClock) -> Cache:
    return Cache(L1(1_000_000, clock), clock, limit_bytes=1_000_000)


class Loader:
    """Counts its calls; each waits until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = asyncio.Event()

    async def __call__(self) -> dict[str, int]:
        self.calls += 1
        answer = {"call": self.calls}
        await self.go.wait()
        return answer


async def test_many_callers_share_one_load(cache: Cache) -> None:
    loader = Loader()
    callers = [asyncio.create_task(cache.get_or_load("k", loader, ttl_s=60)) for _ in range(50)]
    await asyncio.sleep(0)
    loader.go.set()
    assert await asyncio.gather(*callers) == [{"call": 1}] * 50
    assert await cache.get_or_load("k", loader, ttl_s=60) == {"call": 1}
    assert loader.calls == 1


async def test_a_load_that_was_overtaken_is_neither_stored_nor_joined(cache: Cache) -> None:
    loader = Loader()
    before = asyncio.create_task(cache.get_or_load("k", loader, ttl_s=60, tags=["org:1"]))
    await asyncio.sleep(0)
    cache.invalidate(["org:1"])
    after = asyncio.create_task(cache.get_or_load("k", loader, ttl_s=60, tags=["org:1"]))
    await asyncio.sleep(0)
    loader.go.set()
    assert (await before, await after) == ({"call": 1}, {"call": 2})
    assert await cache.get_or_load("k", loader, ttl_s=60, tags=["org:1"]) == {"call": 2}


async def test_a_caller_that_gives_up_does_not_take_the_load_away(cache: Cache) -> None:
    loader = Loader()
    first = asyncio.create_task(cache.get_or_load("k", loader, ttl_s=60))
    second = asyncio.create_task(cache.get_or_load("k", loader, ttl_s=60))
    await asyncio.sleep(0)
    first.cancel()
    loader.go.set()
    assert await second == {"call": 1}


async def test_a_failed_load_is_everybodys_and_is_not_kept(cache: Cache) -> None:
    async def failing() -> int:
        raise LookupError("no such row")

    results = await asyncio.gather(
        *(cache.get_or_load("k", failing, ttl_s=60) for _ in range(3)), return_exceptions=True
    )
    assert [LookupError] * 3 == [type(one) for one in results]

    async def working() -> int:
        return 5

    assert await cache.get_or_load("k", working, ttl_s=60) == 5


async def test_the_wait_for_a_load_ends_with_the_requests_deadline(cache: Cache, clock: ManualClock) -> None:
    DEADLINE.set(clock.monotonic())
    with pytest.raises(DeadlineExceeded):
        await cache.get_or_load("k", Loader(), ttl_s=60)
    await cache.aclose()


async def test_a_load_does_not_inherit_the_first_callers_deadline(cache: Cache, clock: ManualClock) -> None:
    seen: list[float | None] = []

    async def loader() -> int:
        seen.append(DEADLINE.get())
        return 1

    DEADLINE.set(clock.monotonic() + 5)
    await cache.get_or_load("k", loader, ttl_s=60)
    assert seen == [None]


async def test_a_caller_that_holds_a_lease_loads_for_itself_and_stores_nothing(clock: ManualClock) -> None:
    holds = [False]
    cache = Cache(L1(1_000_000, clock), clock, limit_bytes=1_000_000, must_not_wait=lambda: holds[0])
    shared = Loader()
    waiting = asyncio.create_task(cache.get_or_load("k", shared, ttl_s=60))
    await asyncio.sleep(0)
    holds[0] = True

    async def own() -> str:
        return "own"

    assert await cache.get_or_load("k", own, ttl_s=60) == "own"
    shared.go.set()
    assert await waiting == {"call": 1}


async def test_a_reader_cannot_change_what_another_reads(cache: Cache) -> None:
    async def loader() -> list[int]:
        return [1, 2]

    (await cache.get_or_load("k", loader, ttl_s=60)).append(3)
    assert await cache.get_or_load("k", loader, ttl_s=60) == [1, 2]


@pytest.mark.parametrize("value", [0, "", [], {}, None, False])
async def test_falsy_values_are_values(cache: Cache, value: object) -> None:
    calls = 0

    async def loader() -> object:
        nonlocal calls
        calls += 1
        return value

    assert [value, value] == [await cache.get_or_load("k", loader, ttl_s=60) for _ in range(2)]
    assert calls == 1


async def test_switched_off_it_loads_each_time(clock: ManualClock) -> None:
    cache = Cache(L1(1_000_000, clock), clock, limit_bytes=1_000_000, enabled=False)
    loader = Loader()
    loader.go.set()
    assert [await cache.get_or_load("k", loader, ttl_s=60) for _ in range(2)] == [{"call": 1}, {"call": 2}]


async def test_closing_ends_the_loads_that_run_and_cancels_nobody_who_waits(cache: Cache) -> None:
    caller = asyncio.create_task(cache.get_or_load("k", Loader(), ttl_s=60))
    await asyncio.sleep(0)
    await cache.aclose()
    with pytest.raises(NotReady):
        await caller
    with pytest.raises(NotReady):
        await cache.get_or_load("k", Loader(), ttl_s=60)
    assert cache.snapshot().loads_running == 0


class Followed:
    """Stands for what tells a CDN."""

    def __init__(self) -> None:
        self.names: list[tuple[list[str] | None, list[str]]] = []

    def follow(self, done: Awaitable[None], hard: Sequence[str] | None, soft: Sequence[str] = ()) -> None:
        self.names.append((None if hard is None else [readable(name) for name in hard], [*soft]))


async def test_what_the_application_invalidates_is_told_to_the_cdn_unless_it_says_no(clock: ManualClock) -> None:
    followed = Followed()
    cache = Cache(L1(1_000_000, clock), clock, limit_bytes=1_000_000, purging=followed)
    await cache.invalidate(["ledger:3"])
    await cache.invalidate(keys=["http:/x"], organization="3")
    await cache.invalidate(["search"], soft=True)
    await cache.invalidate(everything=True)
    await cache.delete("http:/x")
    told = [(["ledger:3"], []), (["key http:/x of 3"], []), ([], ["search"]), (None, []), (["key http:/x"], [])]
    assert told == followed.names
    await cache.invalidate(["ledger:3"], purge=False)
    await cache.invalidate(everything=True, purge=False)
    await cache.delete("http:/x", purge=False)
    await cache.set("user:7", 1)
    await cache.invalidate_names(["ledger:3"])
    with pytest.raises(ValueError, match="softly"):
        cache.invalidate(everything=True, soft=True)
    assert told == followed.names
    await cache.aclose()
