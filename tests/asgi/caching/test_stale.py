"""Stale answers: while they are refreshed, and in the place of a failure; never after a hard invalidation."""

from __future__ import annotations

import asyncio

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.context import CONTEXT
from b1.asgi.options import CacheOptions
from b1.clock import DEADLINE, ManualClock
from b1.store.memory import MemoryStore
from b1.types import Receive, Scope, Send
from b1.units import MIB
from tests.asgi.caching.world import Lines, World, status_of
from tests.asgi.raw import ANN, BOB

BOTH = CacheOptions(ttl_s=60, vary="organization", tags=("t",), stale_s=30, stale_if_error_s=300)


def control(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"cache-control", value)]


async def stale_world(options: CacheOptions = BOTH, *, after_s: float = 61, headers: Lines = ()) -> World:
    world = World(options)
    world.handler.headers = list(headers)
    world.handler.body = b"old"
    await world.get()
    world.handler.body = b"new"
    world.clock.advance(after_s)
    return world


class TestWhileItIsRefreshed:
    async def test_the_stale_answer_comes_at_once_and_the_next_one_is_new(self) -> None:
        world = await stale_world()
        world.handler.gate = asyncio.Event()
        first = await world.get()
        assert (b"old", "b1; hit; ttl=-1; detail=stale") == (first.body, status_of(first))
        world.handler.gate.set()
        await world.settle()
        assert ((await world.get()).body, world.runs) == (b"new", 2)
        assert (1, 1) == (world.responses.counts.refreshed, world.responses.counts.stale_hits)

    async def test_one_refresh_runs_for_all(self) -> None:
        world = await stale_world()
        world.handler.gate = asyncio.Event()
        replies = await asyncio.gather(*(world.get() for _ in range(50)))
        assert {b"old"} == {reply.body for reply in replies}
        assert 1 == len(world.responses.refreshes)
        world.handler.gate.set()
        await world.settle()
        assert 2 == world.runs

    async def test_at_most_two_run_at_a_time(self) -> None:
        world = World(BOTH)
        for path in ("/a", "/b", "/c"):
            await world.get(path)
        world.clock.advance(61)
        world.handler.gate = asyncio.Event()
        for path in ("/a", "/b", "/c"):
            assert 200 == (await world.get(path)).status
        assert 2 == len(world.responses.refreshes)
        world.handler.gate.set()
        await world.settle()
        assert 5 == world.runs

    async def test_it_is_the_same_principals_request_with_nothing_of_the_first_clients(self) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            context = CONTEXT.get()
            assert context is scope["b1"]
            seen.append((context.principal, context.request_id, DEADLINE.get(), scope["method"], scope["query_string"]))
            assert (await receive())["type"] == "http.request"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

        world = World(BOTH, app=app)
        await world.get(query=b"a=1", principal=BOB)
        world.clock.advance(61)
        await world.get(query=b"a=1", principal=BOB, method="HEAD")
        await world.settle()
        principals, ids, deadlines, methods, queries = zip(*seen, strict=True)
        assert ((BOB, BOB), 2, (None, None), ("GET", "GET")) == (principals, len(set(ids)), deadlines, methods)
        assert (b"a=1", b"a=1") == queries

    async def test_after_a_failure_the_handler_is_left_alone_for_a_while(self) -> None:
        world = await stale_world()
        world.handler.error = RuntimeError("down")
        for _ in range(3):
            assert b"old" == (await world.get()).body
            await world.settle()
        assert (2, 1) == (world.runs, world.responses.counts.refresh_failures)
        world.clock.advance(6)
        world.handler.error = None
        await world.get()
        await world.settle()
        assert b"new" == (await world.get()).body

    async def test_a_refresh_that_became_unstorable_leaves_the_old_answer_to_its_end(self) -> None:
        world = await stale_world()
        world.handler.headers = control(b"no-store")
        await world.get()
        await world.settle()
        assert b"old" == (await world.get()).body
        world.clock.advance(30)
        assert b"new" == (await world.get()).body

    async def test_under_pressure_nothing_is_refreshed(self) -> None:
        world = World(BOTH, may_refresh=lambda: False)
        await world.get()
        world.clock.advance(61)
        assert ("2", 1) == (str(len((await world.get()).body)), world.runs)

    async def test_closing_cancels_and_awaits_it(self) -> None:
        world = await stale_world()
        world.handler.gate = asyncio.Event()
        world.handler.begun.clear()
        await world.get()
        await world.handler.begun.wait()
        await world.responses.aclose()
        assert 0 == world.responses.snapshot().refreshing
        await world.get()
        assert 0 == world.responses.snapshot().refreshing

    async def test_a_handler_that_hangs_is_given_up(self) -> None:
        world = World(BOTH, settings=ResponseCacheOptions(refresh_s=0.01))
        await world.get()
        world.clock.advance(61)
        world.handler.gate = asyncio.Event()
        await world.get()
        async with asyncio.timeout(10):
            while len(world.responses.refreshes):
                await asyncio.sleep(0.005)
        assert 1 == world.responses.counts.refresh_failures

    async def test_an_invalidation_during_the_refresh_keeps_its_answer_out(self) -> None:
        world = await stale_world()
        world.handler.gate = asyncio.Event()
        world.handler.begun.clear()
        await world.get()
        await world.handler.begun.wait()
        world.l1.invalidate(("t",))
        world.handler.gate.set()
        await world.settle()
        world.handler.body = b"newest"
        assert b"newest" == (await world.get()).body


class TestWhenTheHandlerFails:
    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    async def test_stale_is_better_than_a_server_error(self, status: int) -> None:  # stale-503, stale-sie-503
        world = await stale_world(after_s=100)
        world.handler.status = status
        reply = await world.get()
        said = f"b1; fwd=stale; fwd-status={status}; detail=stale-if-error"
        assert (200, b"old", said) == (reply.status, reply.body, status_of(reply))

    async def test_an_exception_is_answered_with_stale_and_still_heard_of(self) -> None:  # stale-close
        world = await stale_world(after_s=100)
        world.handler.error = RuntimeError("down")
        with pytest.raises(RuntimeError):
            await world.get()
        assert 1 == world.responses.counts.stale_errors

    async def test_after_a_failure_stale_comes_without_another_try(self) -> None:
        world = await stale_world(after_s=100)
        world.handler.status = 503
        await world.get()
        reply = await world.get()
        assert (b"old", "b1; hit; ttl=-40; detail=stale-if-error", 2) == (reply.body, status_of(reply), world.runs)

    @pytest.mark.parametrize("status", [400, 403, 404, 429])
    async def test_an_answer_of_the_handler_is_no_failure(self, status: int) -> None:
        world = await stale_world(after_s=100)
        world.handler.status = status
        assert status == (await world.get()).status

    async def test_its_time_ends(self) -> None:
        world = await stale_world(after_s=361)
        world.handler.status = 503
        assert 503 == (await world.get()).status

    async def test_not_modified_holds_for_stale_too(self) -> None:
        world = await stale_world(after_s=100)
        world.handler.status = 503
        tag = (await world.get()).headers["etag"].encode()
        assert 304 == (await world.get(headers=[(b"if-none-match", tag)])).status


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"max-age=2, must-revalidate", id="stale-close-must-revalidate"),
        pytest.param(b"max-age=2, proxy-revalidate", id="stale-close-proxy-revalidate"),
        pytest.param(b"max-age=2, s-maxage=2", id="stale-close-s-maxage=2"),
        pytest.param(b"max-age=2, stale-while-revalidate=0, stale-if-error=0", id="stale-forbidden"),
    ],
)
async def test_what_forbids_stale_is_obeyed(value: bytes) -> None:
    world = await stale_world(after_s=3, headers=control(value))
    world.handler.status = 503
    assert 503 == (await world.get()).status


async def test_the_handlers_own_windows_hold() -> None:
    world = await stale_world(after_s=10, headers=control(b"max-age=5, stale-while-revalidate=20"))
    assert b"old" == (await world.get()).body
    await world.settle()
    world = await stale_world(after_s=30, headers=control(b"max-age=5, stale-while-revalidate=20, stale-if-error=1"))
    assert b"new" == (await world.get()).body


@pytest.mark.parametrize(("ttl_s", "stale_s"), [(5, 5), (60, 30)])
async def test_without_a_word_an_answer_is_stale_for_as_long_as_it_was_fresh_and_half_a_minute_at_most(
    ttl_s: float, stale_s: float
) -> None:
    options = CacheOptions(ttl_s=ttl_s, stale_if_error_s=0)
    world = await stale_world(options, after_s=ttl_s + stale_s - 0.5)
    assert b"old" == (await world.get()).body
    await world.settle()
    world = await stale_world(options, after_s=ttl_s + stale_s + 0.5)
    assert b"new" == (await world.get()).body


class TestInvalidation:
    async def test_hard_means_never_again_not_even_when_the_handler_fails(self) -> None:
        world = await stale_world(after_s=1)
        world.l1.invalidate(("t",))
        world.handler.status = 503
        assert 503 == (await world.get()).status

    async def test_soft_means_stale_while_it_is_refreshed(self) -> None:
        clock = ManualClock()
        store = MemoryStore(4 * MIB, clock)
        world = World(BOTH, store=store, clock=clock)
        await world.get()
        await store.invalidate((), soft=("t",))
        world.handler.body = b"new"
        first = await world.get()
        await world.settle()
        assert (b"ok", "b1; hit; ttl=60; detail=stale") == (first.body, status_of(first))
        assert (b"new", 2) == ((await world.get(principal=ANN)).body, world.runs)

    @pytest.mark.parametrize("what", ["tag", "organization", "path", "everything"])
    async def test_answers_are_invalidated_by_tag_organisation_path_and_all(self, what: str) -> None:
        from b1.cache.names import tags_to_invalidate

        clock = ManualClock()
        store = MemoryStore(4 * MIB, clock)
        world = World(BOTH, store=store, clock=clock)
        await world.get("/x")
        names = {
            "tag": ("t",),
            "organization": tags_to_invalidate(organization="1"),
            "path": tags_to_invalidate(keys=["http:/x"], organization="1"),
            "everything": None,
        }[what]
        await store.invalidate(names)
        await world.get("/x")
        assert 2 == world.runs
