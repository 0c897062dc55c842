"""What the limiter makes of answers: penalties, lists, what is held, settled costs, and headers exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute

from b1 import B1, Settings
from b1.asgi.limits import CHARGED, LimitExceeded, Limits, policies_by_method
from b1.asgi.middleware.limiter import LimiterLayer
from b1.asgi.options import RouteOptions
from b1.errors import ConfigurationError, NotRunning
from b1.limiter import OURS, Caller, CallerLists, Dialect, Limiter, LimiterOptions, Policy, PolicyTable
from b1.metrics import Metrics
from b1.store.base import PenaltyRule
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness
from b1.types import ASGIApp, Principal, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.raw import ANN, App, Reply, call, http, inside, lifespan, nothing
from tests.store.distant import Distant

TABLE = PolicyTable(
    (
        Policy("read", 3, 60),
        Policy("public", 3, 60, scope="address"),
        Policy("write", 100, 60),
        Policy("exports", 1, 60, algorithm="concurrency"),
        Policy("bytes", 100, 60, cost=lambda scope: len(scope["query_string"])),
    )
)
RULE = PenaltyRule(threshold=3)


class World:
    """One limiter and a clock that stands still."""

    def __init__(
        self,
        *limits: str,
        app: ASGIApp | None = None,
        lists: CallerLists | None = None,
        dialect: Dialect = "draft-11",
        away: bool = False,
    ) -> None:
        self.clock = StoreHarness.clock_at_start()
        self.metrics = Metrics()
        memory = MemoryStore(MIB, self.clock)
        self.distant = Distant(self.clock)
        self.distant.is_away = away
        store = FallbackStore(self.distant, memory, self.clock, instances=3) if away else memory
        self.store = store
        options = LimiterOptions(penalties=RULE, callers=lists or CallerLists())
        self.limiter = Limiter(store, TABLE, options=options, clock=self.clock)
        self.limits = Limits(
            self.limiter, self.metrics, default=policies_by_method, upgrade_url="/plans", dialect=dialect
        )
        self.options = RouteOptions(limits=limits or ("read",))
        self.app = app or App()

    def served(self, principal: Principal | None = ANN, client: str = "203.0.113.9") -> ASGIApp:
        layer = LimiterLayer(self.app, limits=self.limits)
        return inside(layer, principal=principal, options=self.options, client=client)

    async def call(self, principal: Principal | None = ANN, **more: Any) -> Reply:
        return await call(self.served(principal), **more)

    async def held(self) -> int:
        caller = Caller("203.0.113.9", ANN.actor, ANN.organization, ANN.role, ANN.tier)
        decision = await self.limiter.check(("exports",), caller, commit=False, blame="nobody")
        return decision.states[0].used


class TestPenalties:
    async def blocked(self, world: World, principal: Principal | None = None) -> Reply:
        for _ in range(6):
            world.clock.advance(1)
            reply = await world.call(principal)
        return reply

    async def test_a_repeat_offender_is_told_so_with_every_header(self) -> None:
        world = World("public")
        reply = await self.blocked(world)
        assert (reply.status, reply.code, reply.json["retryAfter"]) == (429, "PENALTY_ACTIVE", 60)
        assert reply.json["type"] == "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
        assert reply.json["title"] == "Requests are refused after repeated offences"
        assert {name for name in reply.headers if name.encode() in OURS} == {
            "retry-after", "ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining",
            "x-ratelimit-used", "x-ratelimit-reset", "x-ratelimit-window", "x-ratelimit-tier",
        }  # fmt: skip
        assert (reply.headers["retry-after"], reply.headers["ratelimit"]) == ("60", '"public";r=0;t=60')
        again = await world.call(None)
        assert (again.code, again.headers["x-ratelimit-remaining"]) == ("PENALTY_ACTIVE", "0")
        assert b'rate_limit_exceeded_total{policy="penalty"} 2.0' in world.metrics.exposition("")[0]

    async def test_a_valid_token_from_the_same_address_passes(self) -> None:
        world = World("public")
        await self.blocked(world)
        assert (await call(world.served(None))).code == "PENALTY_ACTIVE"
        world.options = RouteOptions(limits=("read",))
        assert (await world.call(ANN)).status == 200

    async def test_bad_tokens_shut_the_address_out_and_no_account(self) -> None:
        world = World("read")
        context: Any = type("Context", (), {"client": "203.0.113.9", "fields": {}, "response_headers": []})()
        for _ in range(6):
            world.clock.advance(1)
            refusal = await world.limits.charge_address(context)
        assert refusal is not None
        assert refusal.code == "PENALTY_ACTIVE"
        assert (await world.call(ANN)).status == 200
        assert (await world.call(None)).code == "PENALTY_ACTIVE"

    async def test_a_handler_that_asks_in_vain_again_and_again_shuts_the_address_out(self) -> None:
        world = World("public")
        victim = Caller("203.0.113.9", "account:victim")
        for _ in range(3):
            await world.limits.enforce(("read",), victim, commit=True)
        codes = []
        for _ in range(4):
            world.clock.advance(1)
            with pytest.raises(LimitExceeded) as refused:
                await world.limits.enforce(("read",), victim, commit=False)
            codes.append(refused.value.code)
        assert codes == ["RATE_LIMIT_EXCEEDED", "RATE_LIMIT_EXCEEDED", "PENALTY_ACTIVE", "PENALTY_ACTIVE"]
        await world.limits.enforce(("write",), Caller("198.51.100.7", "account:victim"), commit=True)

    async def test_who_is_on_the_list_gets_403_and_no_word_more(self) -> None:
        world = World("public", lists=CallerLists(deny=("203.0.113.0/24",)))
        reply = await world.call(None)
        assert (reply.status, reply.code, reply.json["type"]) == (403, "CALLER_DENIED", "about:blank")
        assert not [name for name in reply.headers if name.encode() in OURS]
        assert "retryAfter" not in reply.json

    async def test_who_is_allowed_is_not_counted_and_nothing_shows(self) -> None:
        world = World("public", lists=CallerLists(allow=("203.0.113.9",)))
        replies = [await world.call(None) for _ in range(20)]
        assert {reply.status for reply in replies} == {200}
        assert not [name for name in replies[-1].headers if name.encode() in OURS]


Behaviour = Callable[[Scope, Receive, Send], Awaitable[None]]


class TestWhatIsHeld:
    async def test_it_is_given_back_when_the_answer_has_ended(self) -> None:
        world = World("exports")
        replies = [await world.call() for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 200]
        assert replies[0].headers["ratelimit-policy"] == '"exports";q=1;qu="concurrent-requests"'
        assert await world.held() == 0

    async def test_it_is_held_while_the_answer_streams_and_others_are_refused(self) -> None:
        go_on = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await go_on.wait()
            await send({"type": "http.response.body", "body": b"b"})

        world = World("exports", app=slow)
        first = asyncio.create_task(world.call())
        while await world.held() == 0:
            await asyncio.sleep(0)
        second = await world.call()
        assert (second.status, second.headers["retry-after"]) == (429, "1")
        assert second.json["detail"] == 'Policy "exports" allows 1 requests at a time.'
        assert await world.held() == 1
        go_on.set()
        assert (await first).body == b"ab"
        assert await world.held() == 0

    async def test_it_is_given_back_when_the_handler_fails(self) -> None:
        async def fails(scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("boom")

        world = World("exports", app=fails)
        with pytest.raises(RuntimeError, match="boom"):
            await world.call()
        assert await world.held() == 0

    async def test_it_is_given_back_when_the_request_is_cancelled(self) -> None:
        async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        world = World("exports", app=hangs)
        task = asyncio.create_task(world.call())
        while await world.held() == 0:
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await world.held() == 0


class TestSettledCosts:
    async def used(self, world: World) -> int:
        caller = Caller("203.0.113.9", ANN.actor, ANN.organization, ANN.role, ANN.tier)
        decision = await world.limiter.check(("bytes",), caller, commit=False, blame="nobody", request=http())
        return decision.states[0].used

    async def test_a_cost_is_read_from_the_request(self) -> None:
        world = World("bytes")
        reply = await world.call(query=b"x" * 40)
        assert (reply.headers["x-ratelimit-used"], await self.used(world)) == ("40", 40)

    @pytest.mark.parametrize(("actual", "used"), [(0, 0), (15, 15), (40, 40), (250, 250)])
    async def test_a_handler_says_what_it_really_was(self, actual: int, used: int) -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            world.limits.settle("bytes", actual)
            await App()(scope, receive, send)

        world = World("bytes", app=handler)
        assert (await world.call(query=b"x" * 40)).status == 200
        assert await self.used(world) == used

    async def test_only_of_a_policy_that_was_charged_and_inside_a_request(self) -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            world.limits.settle("read", 1)

        world = World("bytes", app=handler)
        with pytest.raises(ConfigurationError, match="was not charged under 'read'"):
            await world.call()
        CHARGED.set(None)
        with pytest.raises(NotRunning):
            world.limits.settle("bytes", 1)


class TestWhileRedisIsAway:
    async def test_the_answer_says_so_and_shows_the_part_that_this_process_has(self) -> None:
        world = World("write", away=True)
        reply = await world.call()
        assert (reply.headers["x-ratelimit-mode"], reply.headers["x-ratelimit-limit"]) == ("local", "33")
        assert reply.headers["ratelimit-policy"] == '"write";q=33;w=60'
        assert isinstance(world.store, FallbackStore)
        await world.store.aclose()

    async def test_otherwise_nothing_is_said(self) -> None:
        assert "x-ratelimit-mode" not in (await World("write").call()).headers


@pytest.mark.parametrize(
    ("dialect", "field"),
    [("draft-11", '"read";r=2;t=61'), ("pr166", '"read";a=2;w=61'), ("legacy", None), ("off", None)],
)
async def test_the_dialect_is_the_applications(dialect: Dialect, field: str | None) -> None:
    world = World("read", dialect=dialect)
    assert (await world.call()).headers.get("ratelimit") == field
    for _ in range(3):
        refused = await world.call()
    assert refused.headers["retry-after"] == "61"
    assert ("x-ratelimit-limit" in refused.headers) == (dialect != "off")


async def test_a_socket_passes_untouched() -> None:
    world = World()
    await LimiterLayer(world.app, limits=world.limits)({"type": "websocket"}, nothing, nothing)


def _application() -> FastAPI:
    """Every kind of answer."""
    app = FastAPI()
    settings = Settings.from_env({"AUTH_JWT_SECRET": "a test secret of 32 characters!!"})
    b1 = B1(policies=PolicyTable([Policy(name, 50, 60) for name in ("read", "write", "delete", "public", "health")]),
            settings=settings)  # fmt: skip

    @app.api_route("/plain", methods=["GET", "HEAD"])
    async def plain() -> dict[str, int]:
        return {"a": 1}

    @app.get("/unchanged")
    async def unchanged() -> Response:
        return Response(status_code=304)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse((piece async for piece in _pieces()), media_type="text/plain")

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse((piece async for piece in _pieces()), media_type="text/event-stream")

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("boom")

    @app.get("/enforces")
    async def enforces() -> None:
        caller = Caller("198.51.100.1", "someone")
        for _ in range(60):
            await b1.enforce(("read",), caller)

    async def inner(_: Any) -> JSONResponse:
        return JSONResponse({})

    app.mount("/mounted", Starlette(routes=[StarletteRoute("/x", inner), Mount("/deep", routes=[])]))
    b1.install(app)
    return app


async def _pieces() -> Any:
    for _ in range(3):
        yield b"data: x\n\n"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/plain", 200),
        ("HEAD", "/plain", 200),
        ("GET", "/unchanged", 304),
        ("GET", "/stream", 200),
        ("GET", "/events", 200),
        ("GET", "/fails", 500),
        ("GET", "/nothing-here", 404),
        ("POST", "/plain", 405),
        ("GET", "/mounted/x", 200),
        ("GET", "/mounted/none", 404),
        ("GET", "/enforces", 429),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_every_kind_of_answer_has_each_header_exactly_once(method: str, path: str, status: int) -> None:
    app = _application()
    starts: list[Any] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            starts.append(message)

    inbox: asyncio.Queue[Any] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    async with lifespan(app):
        await app(http(path, method), inbox.get, send)
    assert [start["status"] for start in starts] == [status]
    counts = Counter(name for name, _ in starts[0]["headers"] if name in OURS)
    expected = OURS - {b"x-ratelimit-mode"} - (set() if status == 429 else {b"retry-after"})
    assert counts == dict.fromkeys(expected, 1)
