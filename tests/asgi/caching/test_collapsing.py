"""Many requests for one answer that is not there: one runs, the others wait, and nobody waits in vain or for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.options import CacheOptions
from tests.asgi.caching.world import ORGANIZATION, World, status_of
from tests.asgi.raw import ANN, BOB, Reply

COLLAPSED = "b1; fwd=uri-miss; collapsed"


async def crowd(world: World, count: int = 20, **more: Any) -> list[asyncio.Task[Reply]]:
    """Send requests and return when the first one is in the handler and the others wait."""
    world.handler.gate = asyncio.Event()
    world.handler.begun.clear()
    tasks = [asyncio.create_task(world.get(**more)) for _ in range(count)]
    await world.handler.begun.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    return tasks


async def release(world: World, tasks: list[asyncio.Task[Reply]]) -> list[Reply]:
    assert world.handler.gate is not None
    world.handler.gate.set()
    return await asyncio.gather(*tasks)


async def test_one_runs_and_all_get_its_answer() -> None:
    world = World()
    replies = await release(world, await crowd(world, 200))
    assert (1, {b"ok"}) == (world.runs, {reply.body for reply in replies})
    assert ["b1; fwd=uri-miss; stored", *[COLLAPSED] * 199] == sorted(map(status_of, replies), reverse=True)
    assert (199, 0) == (world.responses.counts.collapsed, world.responses.snapshot().waiting)


async def test_each_gets_its_own_304() -> None:
    world = World()
    tag = (await World().get()).headers["etag"].encode()
    plain = await crowd(world, 2)
    conditional = asyncio.create_task(world.get(headers=[(b"if-none-match", tag)]))
    await asyncio.sleep(0)
    assert [200, 200, 304] == [reply.status for reply in await release(world, [*plain, conditional])]


@pytest.mark.parametrize("header", [(b"set-cookie", b"s=1"), (b"cache-control", b"private"), (b"vary", b"*")])
async def test_an_answer_that_nobody_else_may_have_is_given_to_nobody_else(header: tuple[bytes, bytes]) -> None:
    world = World()
    world.handler.headers = [header]
    replies = await release(world, await crowd(world, 5))
    assert 5 == world.runs
    assert not any("collapsed" in status_of(reply) for reply in replies)


async def test_nobody_waits_again_for_an_answer_that_could_not_be_shared() -> None:
    world = World()
    world.handler.headers = [(b"set-cookie", b"s=1")]
    await world.get()
    tasks = await crowd(world, 5)
    assert (6, 0) == (world.runs, world.responses.snapshot().waiting)
    await release(world, tasks)


async def test_others_never_wait_for_another_organisations_or_actors_answer() -> None:
    world = World(CacheOptions(ttl_s=60))
    tasks = [*await crowd(world, 1, principal=ANN), asyncio.create_task(world.get(principal=BOB))]
    await asyncio.sleep(0)
    assert 2 == world.runs
    await release(world, tasks)


async def test_who_comes_after_an_invalidation_does_not_join_the_run_before_it() -> None:
    world = World(ORGANIZATION)
    world.handler.body = b"old"
    before = await crowd(world, 3)
    world.l1.invalidate(("ledger:1",))
    world.handler.begun.clear()
    after = [asyncio.create_task(world.get()) for _ in range(3)]
    await world.handler.begun.wait()
    await asyncio.sleep(0)
    assert 2 == world.runs
    await release(world, [*before, *after])
    world.handler.gate = None
    world.handler.body = b"new"
    # The run before was not kept; the one after was.
    assert (2, "b1; hit") == (world.runs, status_of(await world.get())[:7])


async def test_when_the_first_is_cancelled_the_next_one_runs_for_the_others() -> None:
    world = World()
    tasks = await crowd(world, 5)
    tasks[0].cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert 2 == world.runs
    replies = await release(world, tasks[1:])
    assert (2, {b"ok"}) == (world.runs, {reply.body for reply in replies})


async def test_a_failure_is_everybodys_own() -> None:
    world = World()
    world.handler.status = 503
    replies = await release(world, await crowd(world, 3))
    assert ({503}, 3) == ({reply.status for reply in replies}, world.runs)


async def test_a_wait_ends() -> None:
    world = World(settings=ResponseCacheOptions(wait_s=0.01))
    tasks = await crowd(world, 2)
    async with asyncio.timeout(10):
        while world.runs < 2:
            await asyncio.sleep(0.005)
    await release(world, tasks)


async def test_more_than_may_wait_run_by_themselves() -> None:
    world = World(settings=ResponseCacheOptions(waiters=2))
    tasks = await crowd(world, 6)
    assert (2, 4) == (world.responses.snapshot().waiting, world.runs)
    await release(world, tasks)


async def test_closing_lets_those_who_wait_go_on() -> None:
    world = World()
    tasks = await crowd(world, 3)
    await world.responses.aclose()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (0, 3) == (world.responses.snapshot().waiting, world.runs)
    await release(world, tasks)


async def test_a_head_and_a_no_store_never_wait() -> None:
    world = World()
    tasks = await crowd(world, 1)
    tasks.append(asyncio.create_task(world.get(method="HEAD")))
    tasks.append(asyncio.create_task(world.get(headers=[(b"cache-control", b"no-store")])))
    for _ in range(5):
        await asyncio.sleep(0)
    assert 3 == world.runs
    await release(world, tasks)
