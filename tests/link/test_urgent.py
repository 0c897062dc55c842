"""What must still be said while the main connection is silent: through the reserve, by a block around ordinary calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from b1.clock import SystemClock
from b1.errors import StoreUnavailable
from b1.link import Link
from b1.store.base import ClaimState
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from tests.link.conftest import Census, MakeLink, until
from tests.link.proxy import Proxy, proxy_before
from tests.servers import RedisServer

pytestmark = pytest.mark.real

OwnRedis = Callable[[], RedisServer]


@asynccontextmanager
async def stalling(server: RedisServer, make_link: MakeLink) -> AsyncIterator[tuple[Link, Proxy]]:
    """A link behind a proxy; what `stall` has silenced stays silent, and nobody replaces it before the test is over."""
    async with proxy_before(server.port) as proxy:
        link = make_link(proxy.url, deadline_s=0.2, stall_bound_s=60, reserve_idle_s=0.05)
        yield link, proxy
        await link.aclose()


async def stall(link: Link, proxy: Proxy) -> None:
    proxy.swallows = True
    with pytest.raises(StoreUnavailable):
        await link.call("PING")
    proxy.swallows = False
    assert not link.is_up


async def test_calls_of_the_block_go_through_the_reserve_while_the_main_connection_is_silent(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    async with stalling(server, make_link) as (link, proxy):
        link.register("double", "return ARGV[1] * 2")
        await link.start()
        await stall(link, proxy)
        with Census(server.port) as census:
            async with link.urgent("last_words"):
                assert link.is_up
                assert await link.call("SET", "b1:last", "state") == b"OK"
                assert await link.script("double", [], [21]) == 42
                await link.call("SCRIPT", "FLUSH")
                assert await link.script("double", [], [21]) == 42
            assert [False] == [link.is_up]
            await until(lambda: link.snapshot().reserve.state == "closed")
        assert (2, (("last_words", 1),)) == (census.most, link.snapshot().reserve.used)
        with pytest.raises(StoreUnavailable):
            await link.call("PING")


async def test_the_reserve_is_not_opened_while_the_main_connection_answers(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    link = make_link(redis_server.url, deadline_s=10)
    await link.start()
    async with link.urgent("emergency"):
        assert await link.call("PING") == b"PONG"
    assert () == link.snapshot().reserve.used


async def test_a_connection_that_falls_silent_in_the_block_is_gone_round_too(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    async with stalling(own_redis(), make_link) as (link, proxy):
        await link.start()
        async with link.urgent("emergency"):
            proxy.swallows = True
            asking = asyncio.create_task(link.call("PING"))
            await until(lambda: any(side._is_lost for side in proxy._sides))
            proxy.swallows = False
            assert b"PONG" == await asking
        assert (("emergency", 1),) == link.snapshot().reserve.used


async def test_with_redis_away_one_attempt_is_made_and_the_rest_fails_at_once(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    async with stalling(own_redis(), make_link) as (link, proxy):
        await link.start()
        await proxy.refuse()
        await until(lambda: not link.is_up)
        async with link.urgent("last_words"):
            for _ in range(5):
                with pytest.raises(StoreUnavailable):
                    await link.call("PING")
            assert not link.is_up
        assert (("last_words", 1),) == link.snapshot().reserve.used


async def test_the_last_words_of_a_store_arrive_although_its_connection_is_silent(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    """A finished record and a replay entry that only this process has: lost, if nobody wrote them at the stop."""
    server, clock = own_redis(), SystemClock()
    async with stalling(server, make_link) as (link, proxy):
        store = FallbackStore(RedisStore(link, "test"), MemoryStore(2**20, clock), clock)
        await link.start()
        claim = await store.claim("idempotency:1:k", b"print", lease_ms=30_000)
        await stall(link, proxy)
        assert await store.finish("idempotency:1:k", claim.fence, b"record", ttl_ms=60_000)
        entry = await store.append("stream:1", b"news", keep=10, keep_bytes=1000, ttl_ms=60_000)
        await store.invalidate(["tag"])
        async with link.urgent("last_words"):
            await store.aclose()
        assert (("last_words", 1),) == link.snapshot().reserve.used
        await link.aclose()
    other = make_link(server.url, deadline_s=10)
    seen = RedisStore(other, "test")
    await other.start()
    claim = await seen.claim("idempotency:1:k", b"print", lease_ms=30_000)
    assert (ClaimState.FINISHED, b"record") == (claim.state, claim.record)
    replay = await seen.read_since("stream:1", 0, limit=10)
    assert [(entry, b"news")] == [(one.id, one.data) for one in replay.entries]
