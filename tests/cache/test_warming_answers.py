"""Warming of stored answers: made for who may see them, without a client, and without anybody's credentials."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.service import ResponseCache
from b1.asgi.caching.warming import AnswerWarmer
from b1.asgi.context import CONTEXT
from b1.asgi.middleware.cache import CacheLayer
from b1.asgi.options import CacheOptions, RouteOptions
from b1.asgi.routes import Route, RouteTable
from b1.cache import L1
from b1.cache.warming import Conditions, NotWarmed, Warming, WarmingOptions, Warmups
from b1.clock import ManualClock
from b1.store.memory import MemoryStore
from b1.types import Principal, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.caching.world import ORGANIZATION, PUBLIC, Handler, SharedStore
from tests.asgi.raw import ANN, Reply, call, inside
from tests.cache.warming import Naps, until

TOKEN = (b"authorization", b"Bearer of.a.secret")
ENCODING = (b"accept-encoding", b"gzip")


class Site:
    """A process with one cached route, and warming around it."""

    def __init__(
        self,
        options: CacheOptions = ORGANIZATION,
        *,
        warmups: Warmups | None = None,
        clock: ManualClock | None = None,
        store: MemoryStore | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.l1 = L1(4 * MIB, self.clock, versions=store.versions if store else None)
        self.responses = ResponseCache(
            self.l1, self.clock, store=store, options=ResponseCacheOptions(host="shop.example")
        )
        self.handler = Handler(b"x" * 2000, [(b"content-type", b"text/plain")])
        self.actors: list[str | None] = []
        self.options = RouteOptions(cache=options)
        route = Route("/board/{name}", self.options)
        routes = RouteTable([("/board/{name}", frozenset({"GET"}), route, re.compile("^/board/(?P<name>[^/]+)$"))])
        self.warming = Warming(
            warmups or Warmups(),
            self.l1,
            self.clock,
            conditions=Conditions(),
            options=WarmingOptions(**({"sweep_s": 1e9, "least_count": 1} | (more or {}))),
            sleep=Naps(self.clock),
        )
        self.answers = AnswerWarmer(self.responses, routes, saw=self.warming.saw)
        self.warming.answers = self.answers
        self.layer = CacheLayer(self.answers.tap(self._app), responses=self.responses)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = CONTEXT.get()
        assert context is not None
        self.actors.append(context.principal.actor if context.principal else None)
        await self.handler(scope, receive, send)

    async def get(self, path: str = "/board/a", principal: Principal | None = ANN, **more: Any) -> Reply:
        app = inside(self.layer, principal=principal, options=self.options, template="/board/{name}")
        return await call(app, path, **({"headers": [TOKEN, ENCODING]} | more))

    async def end(self) -> bytes:
        left = self.warming.export()
        await self.warming.aclose()
        await self.responses.aclose()
        return left

    async def succeed(self, left: bytes, *, options: CacheOptions = ORGANIZATION, **more: Any) -> Site:
        """Return the process after this one, warmed."""
        after = Site(options, clock=self.clock, **more)
        await after.warming.start()
        after.warming.absorb(left)
        await after.idle()
        return after

    async def idle(self) -> None:
        await until(lambda: self.warming.state == "idle")


async def restarted(before: Site, **more: Any) -> Site:
    return await before.succeed(await before.end(), **more)


class TestAfterARestart:
    async def test_the_first_request_is_a_hit_as_the_client_wants_it(self) -> None:
        before = Site()
        first = await before.get()
        after = await restarted(before)
        assert ["ann"] == after.actors
        reply = await after.get()
        assert (1, "gzip") == (after.handler.runs, reply.headers["content-encoding"])
        assert "hit" in reply.headers["cache-status"]
        assert (first.body, first.headers["etag"]) == (reply.body, reply.headers["etag"])
        after.warming.sweep()
        now = after.warming.snapshot()
        assert ({"learnt": 1}, 1, 0, 0) == (now.warmed, now.used, now.wasted, now.failed)
        await after.end()

    async def test_the_handler_sees_the_request_that_it_would_have_seen_without_the_token(self) -> None:
        options = replace(ORGANIZATION, vary_headers=("accept-language",))
        before = Site(options)
        headers = [TOKEN, (b"x-organization-id", b"1"), (b"accept-language", b"de"), (b"cookie", b"c=1")]
        await before.get("/board/a", query=b"z=2&y=1", headers=headers)
        left = await before.end()
        assert b"secret" not in left
        after = await before.succeed(left, options=options)
        [seen], [made] = before.handler.seen, after.handler.seen
        assert (seen["path"], seen["query_string"], seen["scheme"]) == (
            made["path"],
            made["query_string"],
            made["scheme"],
        )
        assert {TOKEN} == set(seen["headers"]) - set(made["headers"])
        assert set() == set(made["headers"]) - set(seen["headers"])
        await after.get("/board/a", query=b"z=2&y=1", headers=headers)
        assert 1 == after.handler.runs
        await after.end()

    async def test_a_public_answer_is_made_for_nobody(self) -> None:
        before = Site(PUBLIC)
        await before.get(principal=None, headers=[])
        after = await restarted(before, options=PUBLIC)
        assert [None] == after.actors
        await after.end()

    async def test_a_shared_store_that_has_the_answer_spares_the_handler(self, clock: ManualClock) -> None:
        store = SharedStore(16 * MIB, clock)
        before = Site(clock=clock, store=store)
        await before.get()
        await until(lambda: not before.responses.snapshot().writing)
        after = await restarted(before, store=store)
        assert (0, {"learnt": 1}) == (after.handler.runs, after.warming.snapshot().warmed)
        assert "hit" in (await after.get()).headers["cache-status"]
        await after.end()

    async def test_nobody_waits_for_what_is_warmed(self, clock: ManualClock) -> None:
        store = SharedStore(16 * MIB, clock)
        one = Site(clock=clock, store=store)
        one.handler.gate = gate = asyncio.Event()
        await one.warming.start()
        one.warming.learnt.saw("x", one.answers.subject("/board/a", ANN))
        one.warming.rewarm(now=True)
        await until(lambda: one.handler.runs == 1)
        await until(lambda: not one.responses.snapshot().writing)
        one.handler.gate = None
        reply = await one.get()  # runs the handler itself
        assert (200, 2) == (reply.status, one.handler.runs)
        gate.set()
        await one.idle()
        await one.end()


class TestWhoMaySeeIt:
    async def test_a_principal_that_was_forgotten_is_not_passed_on(self) -> None:
        before = Site()
        await before.get()
        before.l1.invalidate(("actor:ann",))
        assert b"" == await before.end()

    async def test_a_principal_that_is_forgotten_after_it_was_taken_over_is_not_warmed(self) -> None:
        before = Site()
        await before.get()
        left = await before.end()
        after = Site(clock=before.clock)
        after.warming.absorb(left)
        after.l1.invalidate(("actor:ann",))
        await after.warming.start()
        await after.idle()
        assert (0, {"principal": 1}) == (after.handler.runs, after.warming.snapshot().skipped)
        await after.end()

    async def test_a_principal_is_believed_for_as_long_as_identity_does(self) -> None:
        before = Site()
        await before.get()
        left = await before.end()
        before.clock.advance(301)
        after = await before.succeed(left, more={"least_count": 0})
        assert (0, {"principal": 1}) == (after.handler.runs, after.warming.snapshot().skipped)
        after.warming.met(replace(ANN, role="MANAGER"))  # and is warmed for when it comes back
        await after.idle()
        assert (["ann"], {"principal": 1}) == (after.actors, after.warming.snapshot().warmed)
        await after.end()

    @pytest.mark.parametrize("found", [None, ANN, Principal("eve", "1")])
    async def test_the_application_says_who_it_is_now(self, found: Principal | None) -> None:
        warmups, asked = Warmups(), []

        @warmups.establishes
        async def establish(actor: str, organization: str | None) -> Principal | None:
            asked.append((actor, organization))
            return found

        before = Site()
        await before.get()
        left = await before.end()
        before.clock.advance(86_400)
        after = await before.succeed(left, warmups=warmups, more={"least_count": 0})
        assert [("ann", "1")] == asked
        assert (["ann"] if found == ANN else []) == after.actors
        await after.end()

    async def test_the_route_s_own_authorisation_is_asked(self) -> None:
        before = Site()
        await before.get()
        options = replace(ORGANIZATION, allow=lambda _: False)
        after = await restarted(before, options=options)
        now = after.warming.snapshot()
        assert (0, {"forbidden": 1}, 0) == (after.handler.runs, now.skipped, now.tracked)
        await after.end()

    async def test_a_principal_that_cannot_be_written_down_stays_here(self) -> None:
        before = Site()
        await before.get(principal=Principal("ann", "1", claims={"teams": ("a", "b")}))
        assert b"" == await before.end()


class TestDeclaredPaths:
    async def test_a_public_path_is_made_at_the_start_and_one_for_each_user_when_he_comes(self) -> None:
        warmups = Warmups()
        warmups.path("/board/front")
        site = Site(PUBLIC, warmups=warmups)
        await site.warming.start()
        assert [None] == site.actors
        await site.get("/board/front", headers=[])
        assert 1 == site.handler.runs
        await site.end()
        warmups = Warmups()
        warmups.path("/board/mine?q=1", each_principal=True)
        site = Site(replace(ORGANIZATION, vary="actor"), warmups=warmups)
        await site.warming.start()
        site.warming.met(ANN)
        await site.idle()
        await site.get("/board/mine", query=b"q=1")
        assert ["ann"] == site.actors
        await site.end()

    @pytest.mark.parametrize(
        ("path", "principal", "reason"),
        [("/none", ANN, "route"), ("/board/a", None, "forbidden"), ("/board/" + "a" * 3000, ANN, "unkept")],
    )
    async def test_what_cannot_be_warmed_says_why(self, path: str, principal: Principal | None, reason: str) -> None:
        site = Site()
        with pytest.raises(NotWarmed) as caught:
            await site.answers.warm(site.answers.subject(path, principal))
        assert reason == caught.value.reason
        await site.end()

    async def test_what_is_fresh_is_left_alone_and_what_fails_is_not_kept(self) -> None:
        site = Site()
        await site.get()
        with pytest.raises(NotWarmed, match="present"):
            await site.answers.warm(site.answers.subject("/board/a", ANN))
        site.handler.status = 500
        with pytest.raises(NotWarmed, match="failed"):
            await site.answers.warm(site.answers.subject("/board/b", ANN))
        site.handler.status, site.handler.headers = 200, [(b"set-cookie", b"a=b")]
        with pytest.raises(NotWarmed, match="unkept"):
            await site.answers.warm(site.answers.subject("/board/c", ANN))
        assert 1 == len(site.l1)
        await site.end()

    async def test_an_invalidation_while_it_is_made_keeps_it_out(self) -> None:
        site = Site()
        site.handler.answer = lambda _: (site.l1.invalidate(("ledger:1",)), (200, [], b"old"))[1]
        with pytest.raises(NotWarmed, match="unkept"):
            await site.answers.warm(site.answers.subject("/board/a", ANN))
        assert 0 == len(site.l1)
        await site.end()


class TestTheTap:
    async def test_only_what_a_principal_or_a_public_route_wants_is_noted(self) -> None:
        site = Site()
        await site.get(principal=None)
        await site.get(headers=[(b"range", b"bytes=0-1")])
        await site.get("/board/" + "a" * 600)
        assert 0 == site.warming.snapshot().tracked
        await site.get()
        await site.get()  # a hit, which the tap does not see
        assert 1 == site.warming.snapshot().tracked
        await site.end()

    async def test_what_one_request_carries_is_not_given_to_a_warm_up(self) -> None:
        site = Site()
        site.answers.like({"app": "the app", "root_path": "/r", "state": (state := {"pool": 1})})
        state["user"] = "ann"
        await site.answers.warm(site.answers.subject("/board/a", ANN))
        [seen] = site.handler.seen
        assert ("the app", "/r", {"pool": 1}) == (seen["app"], seen["root_path"], seen["state"])
        await site.end()
