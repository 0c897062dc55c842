"""Stored answers: the same bytes, to the right caller, and never one that an invalidation overtook."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from b1.asgi.caching.service import ResponseCache
from b1.asgi.middleware.cache import STORED_LIMIT_BYTES, CacheLayer
from b1.asgi.options import CacheOptions, RouteOptions
from b1.cache import L1
from b1.clock import ManualClock
from b1.types import ASGIApp, Principal, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.raw import ANN, BOB, App, Reply, call, inside, nothing

LEDGER = CacheOptions(ttl_s=60, vary="organization", tags=("ledger:{organization}",), stale_s=0)
MINE = CacheOptions(ttl_s=60)
STRANGER = Principal("carl", "2", tier="pro")


class World:
    """The layer over an application that counts its runs."""

    def __init__(self, app: ASGIApp | None = None, options: CacheOptions | None = LEDGER) -> None:
        self.clock = ManualClock()
        self.l1 = L1(4 * MIB, self.clock)
        self.responses = ResponseCache(self.l1, self.clock)
        self.counts = self.responses.counts
        self.inner = App()
        self.layer = CacheLayer(app or self.inner, responses=self.responses)
        self.options = RouteOptions(cache=options)

    async def get(self, path: str = "/summary", principal: Principal | None = ANN, **more: Any) -> Reply:
        return await call(inside(self.layer, principal=principal, options=self.options), path, **more)

    @property
    def runs(self) -> int:
        return self.inner.runs


async def runs_of(world: World, *requests: dict[str, Any]) -> int:
    for one in requests:
        await world.get(**one)
    return world.runs


class TestHits:
    async def test_a_hit_is_the_first_answer_and_says_so(self) -> None:
        world = World()
        world.inner.headers.append((b"content-type", b"application/json"))
        first, second = await world.get(), await world.get()
        assert (world.runs, second.body, second.status) == (1, first.body, 200)
        statuses = (first.headers.pop("cache-status"), second.headers.pop("cache-status"))
        assert statuses == ("b1; fwd=uri-miss; stored", "b1; hit; ttl=60; detail=l1")
        assert second.headers == {**first.headers, "age": "0"}
        assert (world.counts.hits, world.counts.misses) == (1, 1)

    async def test_what_belongs_to_one_request_is_not_stored(self) -> None:
        world = World()
        world.inner.headers.append((b"x-request-id", b"of the first"))
        await world.get()
        assert "x-request-id" not in (await world.get()).headers

    async def test_it_ends_when_its_time_is_over(self) -> None:
        world = World()
        await world.get()
        world.clock.advance(59.9)
        await world.get()
        assert world.runs == 1
        world.clock.advance(0.2)
        await world.get()
        assert world.runs == 2

    async def test_an_answer_in_pieces_is_stored_whole(self) -> None:
        runs: list[int] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            runs.append(1)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for piece in (b"a", b"b", b"c"):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

        world = World(app)
        assert [b"abc", b"abc"] == [(await world.get()).body for _ in range(2)]
        assert len(runs) == 1


class TestWhoseAnswerItIs:
    async def test_members_share_what_varies_by_organisation(self) -> None:
        assert await runs_of(World(), {"principal": ANN}, {"principal": BOB}) == 1

    async def test_another_organisation_never_sees_it(self) -> None:
        assert await runs_of(World(), {"principal": ANN}, {"principal": STRANGER}) == 2

    async def test_by_default_each_actor_has_their_own(self) -> None:
        world = World(options=MINE)
        assert await runs_of(world, {"principal": ANN}, {"principal": BOB}, {"principal": ANN}) == 2

    async def test_the_same_actor_in_another_organisation_is_somebody_else(self) -> None:
        world = World(options=MINE)
        assert await runs_of(world, {"principal": ANN}, {"principal": Principal("ann", "2")}) == 2

    async def test_callers_without_an_organisation_are_not_one_organisation(self) -> None:
        alone: list[dict[str, Any]] = [{"principal": Principal(actor)} for actor in ("dan", "eve")]
        assert await runs_of(World(), *alone) == 2

    async def test_query_and_path_are_part_of_it(self) -> None:
        requests: list[dict[str, Any]] = [
            {"path": "/a"},
            {"path": "/b"},
            {"path": "/a", "query": b"x=1"},
            {"path": "/a", "query": b"x=2"},
        ]
        assert await runs_of(World(), *requests, *requests) == 4

    async def test_the_routes_own_authorisation_is_asked_before_a_hit(self) -> None:
        allowed = {"ann", "bob"}
        world = World(options=CacheOptions(ttl_s=60, vary="organization", allow=lambda who: who.actor in allowed))
        assert (await world.get(principal=ANN)).status == 200
        allowed.clear()
        reply = await world.get(principal=BOB)
        assert (reply.status, reply.code) == (403, "FORBIDDEN")


class TestWhatIsNotStored:
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
    async def test_other_methods(self, method: str) -> None:
        assert await runs_of(World(), {"method": method}, {"method": method}) == 2

    async def test_answers_to_strangers(self) -> None:
        assert await runs_of(World(), {"principal": None}, {"principal": None}) == 2

    async def test_routes_that_declare_nothing(self) -> None:
        world = World(options=None)
        assert await runs_of(world, {}, {}) == 2
        assert "cache-status" not in (await world.get()).headers

    @pytest.mark.parametrize("status", [201, 204, 206, 302, 404, 500])
    async def test_any_status_but_200(self, status: int) -> None:
        world = World()
        world.inner.status = status
        assert await runs_of(world, {}, {}) == 2

    async def test_answers_that_set_a_cookie(self) -> None:
        world = World()
        world.inner.headers.append((b"set-cookie", b"session=1"))
        assert await runs_of(world, {}, {}) == 2

    async def test_answers_over_the_bound(self) -> None:
        world = World()
        world.inner.body = b"x" * (STORED_LIMIT_BYTES + 1)
        assert await runs_of(world, {}, {}) == 2
        assert len(world.l1) == 0

    async def test_half_an_answer(self) -> None:
        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError

        world = World(broken)
        with pytest.raises(RuntimeError):
            await world.get()
        assert len(world.l1) == 0


class TestInvalidation:
    async def test_a_tag_makes_the_answer_stale_at_once(self) -> None:
        world = World()
        await world.get()
        world.l1.invalidate(("ledger:1",))
        await world.get()
        assert world.runs == 2

    async def test_another_organisations_tag_changes_nothing(self) -> None:
        world = World()
        await world.get()
        world.l1.invalidate(("ledger:2",))
        assert await runs_of(world, {}) == 1

    async def test_an_answer_that_an_invalidation_overtook_is_served_and_not_stored(self) -> None:
        reading, go_on = asyncio.Event(), asyncio.Event()
        bodies = [b"old", b"new"]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body = bodies.pop(0)
            reading.set()
            await go_on.wait()
            await App(body=body, headers=())(scope, receive, send)

        world = World(app)
        first = asyncio.create_task(world.get())
        await reading.wait()
        world.l1.invalidate(("ledger:1",))
        go_on.set()
        assert ((await first).body, (await world.get()).body) == (b"old", b"new")


async def test_other_scopes_pass_untouched() -> None:
    world = World()
    await world.layer({"type": "websocket"}, nothing, nothing)
    assert world.inner.seen == [("websocket", b"")]
