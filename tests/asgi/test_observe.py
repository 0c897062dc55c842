"""The outermost layer: an id for every answer, a count for every request, and the last word on errors."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from b1.asgi.context import CONTEXT
from b1.asgi.middleware.observe import Observe
from b1.asgi.routes import Route, RouteTable
from b1.clock import ManualClock
from b1.errors import Overloaded
from b1.logs import REQUEST_ID
from b1.metrics import Metrics
from b1.types import ASGIApp, Receive, Scope, Send
from tests.asgi.raw import App, call, http, nothing

NO_METHODS: frozenset[str] | None = None


class World:
    """The layer over `app`, with one route with a parameter and one without."""

    def __init__(self, app: ASGIApp) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        routes = RouteTable(
            [
                ("/things", frozenset({"GET", "POST"}), Route("/things"), None),
                ("/things/{id}", NO_METHODS, Route("/things/{id}"), re.compile(r"^/things/(?P<id>[^/]+)$")),
            ]
        )
        self.layer = Observe(app, routes=routes, metrics=self.metrics, clock=self.clock)

    def counted(self) -> set[tuple[str, str, str]]:
        """Return (method, route, status) of every request counted."""
        text = self.metrics.exposition("")[0].decode()
        pattern = r'^http_requests_total\{method="(.*?)",route="(.*?)",status="(.*?)"\} [^0]'
        return set(re.findall(pattern, text, re.MULTILINE))


async def boom(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a secret detail")


class TestRequestId:
    @pytest.mark.parametrize("sent", ["abcdefgh", "01HX-yz_1.2", "x" * 64])
    async def test_a_well_formed_one_is_kept(self, sent: str) -> None:
        reply = await call(World(App()).layer, headers=[(b"x-request-id", sent.encode())])
        assert reply.headers["x-request-id"] == sent

    @pytest.mark.parametrize("sent", ["", "short", "x" * 65, "has space", 'a"bcdefgh', "abcdefgh\n", "äbcdefghi"])
    async def test_any_other_one_is_replaced(self, sent: str) -> None:
        reply = await call(World(App()).layer, headers=[(b"x-request-id", sent.encode())])
        assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])

    async def test_two_requests_get_two(self) -> None:
        layer = World(App()).layer
        assert (await call(layer)).headers["x-request-id"] != (await call(layer)).headers["x-request-id"]

    async def test_logs_and_handlers_see_it(self) -> None:
        seen: list[str | None] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            context = CONTEXT.get()
            assert context is scope["b1"]
            seen.extend((REQUEST_ID.get(), context.request_id))
            await App()(scope, receive, send)

        reply = await call(World(app).layer)
        assert {reply.headers["x-request-id"]} == set(seen)

    async def test_an_application_that_makes_one_too_has_no_second_one_sent(self) -> None:
        app = App(
            headers=[(b"x-request-id", b"of-a-correlation-middleware"), (b"content-length", b"2"), (b"x-own", b"1")]
        )
        reply = await call(World(app).layer, headers=[(b"x-request-id", b"from-the-client")])
        assert [b"from-the-client"] == [value for name, value in reply.lines if name == b"x-request-id"]
        assert "1" == reply.headers["x-own"]


async def test_a_start_that_an_application_keeps_and_sends_again_is_not_changed() -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    before = {**start, "headers": list(start["headers"])}  # type: ignore[call-overload]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    layer = World(app).layer
    replies = [await call(layer) for _ in range(2)]
    assert [1, 1] == [len([1 for name, _ in reply.lines if name == b"x-request-id"]) for reply in replies]
    assert before == start


class TestErrors:
    async def test_what_nobody_caught_is_a_500_that_names_the_request_and_nothing_else(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = World(boom)
        reply = await call(world.layer, "/things")
        assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
        assert reply.json["requestId"] == reply.headers["x-request-id"]
        assert b"secret" not in reply.body
        [record] = [record for record in caplog.records if record.name == "b1.http"]
        assert record.levelno == logging.ERROR and record.exc_info is not None
        assert b"b1_unhandled_errors_total 1.0" in world.metrics.exposition("")[0]

    async def test_a_refusal_of_ours_that_nobody_answered_is_answered_as_what_it_is(self) -> None:
        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            raise Overloaded("come back later")

        world = World(refuse)
        reply = await call(world.layer)
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "OVERLOADED", "1")
        assert b"b1_unhandled_errors_total 0.0" in world.metrics.exposition("")[0]

    async def test_an_error_after_the_answer_began_starts_no_second_one(self) -> None:
        async def half(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError

        reply = await call(World(half).layer)
        assert (reply.status, reply.starts, reply.is_complete) == (200, 1, False)

    async def test_a_cancelled_request_stays_cancelled(self) -> None:
        async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        world = World(stuck)
        task = asyncio.create_task(call(world.layer))
        await asyncio.sleep(0)
        assert world.metrics.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.metrics.in_flight == 0


class TestCounts:
    async def test_by_method_template_and_status(self) -> None:
        world = World(App(404))
        await call(world.layer, "/things")
        await call(world.layer, "/things/7", "DELETE")
        assert world.counted() == {("GET", "/things", "404"), ("DELETE", "/things/{id}", "404")}

    async def test_what_a_client_invents_makes_no_new_series(self) -> None:
        world = World(App())
        for number in range(5):
            await call(world.layer, f"/nowhere/{number}", f"INVENTED{number}")
        assert world.counted() == {("other", "unmatched", "200")}

    async def test_failures_count_as_what_the_client_saw(self) -> None:
        world = World(boom)
        await call(world.layer, "/things")
        assert world.counted() == {("GET", "/things", "500")}
        assert world.metrics.in_flight == 0

    async def test_the_time_is_the_clocks(self) -> None:
        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            world.clock.advance(0.75)
            await App()(scope, receive, send)

        world = World(slow)
        await call(world.layer, "/things")
        text = world.metrics.exposition("")[0].decode()
        assert 'http_request_duration_seconds_sum{method="GET",route="/things"} 0.75' in text


class TestRoutes:
    async def seen(self, path: str, **more: Any) -> tuple[str, dict[str, str]]:
        found: list[tuple[str, dict[str, str]]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            found.append((scope["b1"].route.template, dict(scope["b1"].path_values)))
            await App()(scope, receive, send)

        await call(World(app).layer, path, **more)
        return found[0]

    async def test_the_context_knows_the_template_and_the_values(self) -> None:
        assert await self.seen("/things/7") == ("/things/{id}", {"id": "7"})

    async def test_a_root_path_is_no_part_of_it(self) -> None:
        assert await self.seen("/api/things/7", root_path="/api") == ("/things/{id}", {"id": "7"})


async def test_headers_of_the_layers_below_go_out_with_any_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["b1"].response_headers.append((b"x-from-below", b"1"))
        raise RuntimeError

    assert (await call(World(app).layer)).headers["x-from-below"] == "1"


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    app = App()
    scope: Scope = {**http(), "type": kind}
    await World(app).layer(scope, nothing, nothing)
    assert app.seen == [(kind, b"")] and "b1" not in scope
