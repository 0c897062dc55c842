"""The cache over a real Redis or Valkey: two processes, one load; and what holds when the server loses or leaves."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from b1.cache import L1, Cache
from b1.clock import SystemClock
from b1.link import Link, LinkOptions
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from tests.cache.hosts import Loader
from tests.servers import RedisServer

pytestmark = pytest.mark.real

Start = Callable[[str], Awaitable["Host"]]
ROOT = Path(__file__).parents[2]


class Host:
    """One process's cache, link and store. `mirrors`: it follows what others invalidate; else it asks each time."""

    def __init__(self, url: str, slots: Path, *, mirrors: bool) -> None:
        clock = SystemClock()
        self.mirrors = mirrors
        self.link = Link(LinkOptions(url, deadline_s=10, connections=4, slots_dir=slots))
        redis = RedisStore(self.link, "cache")
        if mirrors:
            redis.keep_mirror()
        self.store = FallbackStore(redis, MemoryStore(2**22, clock), clock)
        l1 = L1(2**22, clock, versions=self.store.versions)
        self.cache = Cache(l1, clock, store=self.store, limit_bytes=2**22)

    async def start(self) -> Host:
        await self.link.start()
        await eventually(lambda: self.link.is_up and self.store.versions.is_exact is self.mirrors)
        return self

    async def aclose(self) -> None:
        await self.cache.aclose()
        await self.store.aclose()
        await self.link.aclose()

    async def read(self, loader: Any) -> Any:
        """Read after a trip, as every request has made one for its limits: what was pushed before it is known then."""
        if self.mirrors:
            await self.store.barrier()
        return await self.cache.get_or_load("user:1", loader, ttl_s=60, tags=("users",))


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, for 10 s at most."""
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


@pytest.fixture(params=["mirror", "trips"])
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def one(url: str) -> Host:
            host = await Host(url, tmp_path / "slots", mirrors=request.param == "mirror").start()
            stack.push_async_callback(host.aclose)
            return host

        yield one


@pytest.mark.parametrize("mode", ["mirror", "trips"])
async def test_a_thousand_misses_on_one_key_over_two_processes_are_one_load(
    redis_url: str, tmp_path: Path, mode: str
) -> None:
    async def begin() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.cache.stampeder", redis_url, str(tmp_path / "slots"), "500", mode,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    processes = await asyncio.gather(begin(), begin())
    try:
        async with asyncio.timeout(60):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert sorted(out.decode() for out, _ in answers) == ["0 [1] 500\n", "1 [1] 500\n"]


async def test_an_awaited_invalidation_is_known_on_every_host(redis_url: str, start: Start) -> None:
    here, there = await start(redis_url), await start(redis_url)
    loader = Loader()
    assert [await host.read(loader) for host in (here, there)] == [{"call": 1}] * 2
    for call in range(2, 30):
        await here.cache.invalidate(["users"])
        assert [await host.read(loader) for host in (there, here)] == [{"call": call}] * 2


async def test_a_server_that_lost_everything_is_believed_in_nothing_older(
    redis_server: RedisServer, start: Start
) -> None:
    here, there = await start(redis_server.url), await start(redis_server.url)
    loader = Loader()
    assert [await host.read(loader) for host in (here, there)] == [{"call": 1}] * 2
    redis_server.command("FLUSHALL")
    await here.cache.invalidate(["users"])
    assert [await host.read(loader) for host in (there, here)] == [{"call": 2}] * 2


async def test_while_redis_is_away_each_host_goes_on_and_its_return_makes_them_agree(
    own_redis: Callable[[], RedisServer], start: Start
) -> None:
    server = own_redis()
    here, there = await start(server.url), await start(server.url)
    loader = Loader()
    assert [await host.read(loader) for host in (here, there)] == [{"call": 1}] * 2
    server.stop()
    await eventually(lambda: not here.link.is_up and not there.link.is_up)
    here.cache.invalidate(["users"])
    assert await here.read(loader) == {"call": 2}
    server.start()
    for host in (here, there):
        await eventually(lambda host=host: host.link.is_up)  # type: ignore[misc]
        await host.store.barrier()
    await here.cache.invalidate(["users"])
    answers = [await host.read(loader) for host in (there, here)]
    assert answers == [answers[0]] * 2
    assert answers[0]["call"] > 2


@pytest.mark.parametrize("ends", ["cancelled at once", "cancelled while it loads", "closed while it loads"])
async def test_a_reader_of_many_that_goes_leaves_no_lease_in_redis(start: Start, redis_url: str, ends: str) -> None:
    host = await start(redis_url)
    begun = asyncio.Event()

    async def load(keys: list[str]) -> dict[str, Any]:
        begun.set()
        await asyncio.Event().wait()
        return {}

    async def leases() -> int:
        return len(await host.link.call("KEYS", "*:lease"))

    many = asyncio.create_task(host.cache.get_many([f"user:{number}" for number in range(300)], load, ttl_s=60))
    if ends == "cancelled at once":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    else:
        await begun.wait()
        assert 300 == await leases()
    if ends == "closed while it loads":
        await host.cache.aclose()
    many.cancel()
    await asyncio.gather(many, return_exceptions=True)
    async with asyncio.timeout(4):  # a lease ends by itself after 5
        while await leases() or not host.link.is_up:
            await asyncio.sleep(0.01)
    assert 0 == host.cache.snapshot().loads_running
