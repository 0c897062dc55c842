"""The one order of the request path: each line's reason in `b1.asgi.stack`, shown as behaviour of the whole stack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from b1 import B1, ConfigurationError, Policy, PolicyTable, Settings
from b1.asgi import stack
from b1.identity import Tokens
from b1.limiter import DEFAULT_POLICIES
from b1.store.memory import MemoryStore
from b1.types import ASGIApp, Receive, Scope, Send
from tests.asgi.raw import App, Reply, Unreadable, bearer, call, lifespan

SECRET = "a test secret of 32 characters!!"
ORIGIN = (b"origin", b"https://app.example.com")
TABLE = PolicyTable((*(policy for name, policy in DEFAULT_POLICIES.items() if name != "write"), Policy("write", 2, 60)))


class TestBuild:
    def test_layers_stand_in_the_one_order_whatever_order_they_come_in(self) -> None:
        entered: list[str] = []

        def layer(name: str) -> stack.Layer:
            def wrap(app: ASGIApp) -> ASGIApp:
                async def run(scope: Scope, receive: Receive, send: Send) -> None:
                    entered.append(name)
                    await app(scope, receive, send)

                return run

            return wrap

        built = stack.build(App(), [(name, layer(name)) for name in reversed(stack.ORDER)])
        asyncio.run(_call(built))
        assert tuple(entered) == stack.ORDER

    def test_without_layers_the_application_stays_itself(self) -> None:
        app = App()
        assert stack.build(app, []) is app

    @pytest.mark.parametrize("names", [["observe", "observe"], ["observe", "obsrve"]])
    def test_unknown_and_doubled_names_are_refused(self, names: list[str]) -> None:
        with pytest.raises(ValueError, match="distinct names"):
            stack.build(App(), [(name, lambda app: app) for name in names])


async def _call(app: ASGIApp) -> None:
    await call(app)


class World:
    """A small application with the whole profile around it."""

    def __init__(self, **environment: str) -> None:
        settings = Settings.from_env({"AUTH_JWT_SECRET": SECRET, "CORS_ORIGINS": ORIGIN[1].decode(), **environment})
        self.runs: list[str] = []
        self.app = FastAPI()
        self.b1 = B1(policies=TABLE, settings=settings)
        self._routes()
        self.b1.install(self.app)

    def _routes(self) -> None:
        b1 = self.b1

        @self.app.post("/things", status_code=201)
        @b1.idempotent(required=True)
        async def make(thing: dict[str, Any]) -> dict[str, Any]:
            self.runs.append("made")
            return {"number": len(self.runs)}

        @self.app.get("/cached")
        @b1.limit("read")
        @b1.cached(ttl_s=60)
        async def cached() -> dict[str, Any]:
            self.runs.append("read")
            return {"number": len(self.runs)}

        @self.app.post("/stuck")
        @b1.deadline(0.05)
        @b1.idempotent()
        async def stuck(thing: dict[str, Any]) -> None:
            self.runs.append("stuck")
            await asyncio.Event().wait()

        @self.app.get("/who")
        async def who() -> str:
            return b1.principal().actor

        @self.app.get("/boom")
        async def boom() -> None:
            raise RuntimeError

    def token(self, actor: str = "ann") -> tuple[bytes, bytes]:
        runtime = self.b1.runtime
        assert isinstance(runtime.tokens, Tokens)
        return bearer(runtime.tokens.issue(actor, {"org": 1, "tier": "pro"}, ttl_s=60))

    async def call(self, path: str, method: str = "GET", *headers: tuple[bytes, bytes], **more: Any) -> Reply:
        return await call(_quiet(self.app), path, method, headers=headers, **more)

    async def make(self, key: str, actor: str = "ann", thing: dict[str, Any] | None = None, **more: Any) -> Reply:
        body = json.dumps(thing or {}).encode()
        headers = [self.token(actor), (b"idempotency-key", key.encode()), (b"content-type", b"application/json")]
        return await self.call("/things", "POST", *headers, **{"body": body, **more})


def _quiet(app: ASGIApp) -> ASGIApp:
    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except RuntimeError:
            pass  # starlette raises it again, for the server's log

    return quiet


@asynccontextmanager
async def running(**environment: str) -> AsyncIterator[World]:
    world = World(**environment)
    async with lifespan(world.app):
        yield world


class TestObserveIsOutermost:
    async def test_every_refusal_has_a_request_id(self) -> None:
        async with running() as world:
            replies = [
                await world.call("/things", "POST", (b"content-length", b"99999999999")),
                await world.call("/who", "GET", bearer("forged")),
                await world.call("/nowhere"),
                await world.call("/boom"),
                await world.call("/live", "POST"),
            ]
            assert [413, 401, 404, 500, 405] == [reply.status for reply in replies]
            assert all(reply.json["requestId"] == reply.headers["x-request-id"] for reply in replies)

    async def test_refusals_are_counted(self) -> None:
        async with running() as world:
            await world.call("/who", "GET", bearer("forged"))
            text = (await world.call("/metrics")).body.decode()
        assert 'http_requests_total{method="GET",route="/who",status="401"} 1.0' in text


class TestCorsStandsAroundRefusals:
    async def test_a_script_may_read_why_it_was_refused(self) -> None:
        async with running() as world:
            refused = await world.call("/who", "GET", ORIGIN, bearer("forged"))
        assert refused.headers["access-control-allow-origin"] == ORIGIN[1].decode()
        assert "retry-after" in refused.headers["access-control-expose-headers"].lower()

    async def test_a_preflight_needs_no_token_and_costs_no_quota(self) -> None:
        async with running() as world:
            wish = (b"access-control-request-method", b"POST")
            replies = [await world.call("/things", "OPTIONS", ORIGIN, wish) for _ in range(30)]
        assert {200} == {reply.status for reply in replies}
        assert "x-ratelimit-limit" not in replies[-1].headers

    async def test_a_foreign_origin_gets_no_permission(self) -> None:
        async with running() as world:
            reply = await world.call("/live", "GET", (b"origin", b"https://evil.example"))
        assert "access-control-allow-origin" not in reply.headers


class TestProbesAreAnsweredBeforeAnythingCanRefuse:
    async def test_while_nothing_else_is(self) -> None:
        async with running() as world:
            world.b1.runtime.phase = "starting"
            probes = [(await world.call(path)).status for path in ("/live", "/ready", "/health")]
            refused = await world.call("/who")
            world.b1.runtime.phase = "running"
        assert probes == [200, 503, 200]
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "NOT_READY", "1")

    async def test_while_a_stop_lingers_who_is_still_connected_is_served(self) -> None:
        async with running() as world:
            world.b1.runtime.phase = "draining"
            replies = [await world.call(path, "GET", world.token()) for path in ("/ready", "/who")]
            world.b1.runtime.phase = "running"
        assert [503, 200] == [reply.status for reply in replies]

    async def test_with_a_bad_token_and_an_empty_quota(self) -> None:
        async with running() as world:
            for _ in range(40):
                await world.call("/who", "GET", bearer("forged"))
            assert (await world.call("/who", "GET", bearer("forged"))).status == 429
            assert (await world.call("/live", "GET", bearer("forged"))).status == 200


class TestGuardComesBeforeIdentity:
    async def test_a_body_over_the_cap_is_refused_whoever_sends_it(self) -> None:
        async with running(B1_BODY_LIMIT="1KiB") as world:
            too_long = (b"content-length", b"1025")
            for headers in ([], [bearer("forged")], [world.token()]):
                reply = await world.call("/things", "POST", too_long, *headers, body=Unreadable())
                assert (reply.status, reply.code) == (413, "BODY_TOO_LARGE")


class TestIdentityComesBeforeTheLimiter:
    async def test_each_actor_has_a_quota_of_their_own(self) -> None:
        async with running() as world:
            replies = [await world.make(str(n), actor) for n, actor in enumerate(["ann", "ann", "ann", "bob"])]
        assert [201, 201, 429, 201] == [reply.status for reply in replies]

    async def test_a_forged_token_spends_nobodys_quota_but_its_address_own(self) -> None:
        async with running() as world:
            for _ in range(40):
                await world.call("/who", "GET", bearer("forged"))
            reply = await world.call("/who", "GET", world.token())
        assert (reply.status, reply.headers["x-ratelimit-used"]) == (200, "1")


class TestTheLimiterComesBeforeIdempotency:
    async def test_a_refused_request_leaves_no_claim_and_its_body_is_not_read(self) -> None:
        async with running() as world:
            await world.make("1")
            await world.make("2")
            store = world.b1.runtime.store
            assert isinstance(store, MemoryStore)
            claims = len(store.claims)
            assert (await world.make("3", body=Unreadable())).status == 429
            assert claims == len(store.claims)
            assert world.runs == ["made", "made"]

    async def test_a_replay_costs_as_much_as_any_request(self) -> None:
        async with running() as world:
            replies = [await world.make("1") for _ in range(3)]
        assert [201, 201, 429] == [reply.status for reply in replies]
        assert replies[1].headers["idempotent-replayed"] == "true"
        assert (replies[1].headers["x-ratelimit-used"], replies[1].body) == ("2", replies[0].body)


class TestTheCacheComesAfterTheLimiter:
    async def test_a_hit_costs_quota_and_tells_where_the_caller_stands(self) -> None:
        async with running() as world:
            replies = [await world.call("/cached", "GET", world.token()) for _ in range(2)]
        first, second = [reply.headers["cache-status"] for reply in replies]
        assert (first, second.partition(";")[2].split(";")[0]) == ("b1; fwd=uri-miss; stored", " hit")
        assert [reply.headers["x-ratelimit-used"] for reply in replies] == ["1", "2"]
        assert world.runs == ["read"]


class TestTheDeadlineIsInnermost:
    async def test_its_answer_is_no_outcome_and_the_key_is_free_again(self) -> None:
        async with running() as world:
            key = (b"idempotency-key", b"k"), (b"content-type", b"application/json")
            replies = [await world.call("/stuck", "POST", world.token(), *key, body=b"{}") for _ in range(2)]
        assert [(503, "DEADLINE_EXCEEDED")] * 2 == [(reply.status, reply.code) for reply in replies]
        assert world.runs == ["stuck", "stuck"]


class TestSwitches:
    async def test_without_rate_limiting_nothing_is_counted(self) -> None:
        async with running(ENABLE_RATE_LIMITING="0") as world:
            replies = [await world.make(str(n)) for n in range(10)]
        assert {201} == {reply.status for reply in replies}
        assert "x-ratelimit-limit" not in replies[0].headers

    async def test_without_idempotency_a_key_means_nothing(self) -> None:
        async with running(ENABLE_IDEMPOTENCY="0") as world:
            assert [(await world.make("1")).status for _ in range(2)] == [201, 201]
            assert (await world.call("/internal/idempotency-stats")).status == 404
        assert world.runs == ["made", "made"]

    async def test_without_caching_every_answer_is_new(self) -> None:
        async with running(ENABLE_CACHING="0") as world:
            for _ in range(2):
                assert "cache-status" not in (await world.call("/cached", "GET", world.token())).headers
        assert world.runs == ["read", "read"]

    @pytest.mark.parametrize(
        ("switch", "paths"),
        [
            ("ENABLE_METRICS", ["/metrics", "/v1/system/metrics/prometheus"]),
            ("ENABLE_DASHBOARD", ["/dashboard"]),
            ("ENABLE_API_DOCS", ["/openapi.json", "/docs", "/api-docs"]),
        ],
    )
    async def test_an_endpoint_that_is_off_is_not_found(self, switch: str, paths: list[str]) -> None:
        async with running(**{switch: "0"}) as world:
            assert {404} == {(await world.call(path)).status for path in paths}
            assert (await world.call("/live")).status == 200


class TestInstalling:
    def test_a_policy_that_nobody_knows_stops_the_start(self) -> None:
        world = World()
        world.app.add_api_route("/typo", world.b1.limit("raed")(lambda: None))

        async def start() -> None:
            async with lifespan(world.app):
                pass

        with pytest.raises((AssertionError, ConfigurationError), match="raed"):
            asyncio.run(start())

    def test_twice_is_refused(self) -> None:
        world = World()
        with pytest.raises(ConfigurationError, match="already"):
            B1(world.app)

    def test_what_is_no_framework_is_told_to_wrap(self) -> None:
        with pytest.raises(ConfigurationError, match="wrap"):
            B1(App())

    async def test_any_asgi_application_can_be_wrapped(self) -> None:
        app = App()
        wrapped = B1(settings=Settings()).wrap(app)
        async with lifespan(wrapped):
            replies = [await call(wrapped, path) for path in ("/live", "/anything")]
        assert [200, 200] == [reply.status for reply in replies]
        assert replies[1].headers["x-ratelimit-limit"] == "100"

    async def test_it_can_be_started_again(self) -> None:
        world = World()
        for _ in range(2):
            async with lifespan(world.app):
                assert (await world.call("/who", "GET", world.token())).status == 200
