"""The limiter over HTTP: who is charged for what, before the body is read, and what a refusal tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from b1.asgi.limits import LimitExceeded, Limits, policies_by_method
from b1.asgi.middleware.limiter import LimiterLayer
from b1.asgi.options import RouteOptions
from b1.limiter import Caller, Limiter, Policy, PolicyTable
from b1.metrics import Metrics
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness
from b1.types import ASGIApp, Principal
from b1.units import MIB
from tests.asgi.raw import ANN, BOB, App, Reply, Unreadable, call, inside, nothing

TABLE = PolicyTable(
    (
        Policy("general", 20, 60, tiers={"pro": 5}),
        Policy("read", 3, 60),
        Policy("write", 2, 60),
        Policy("delete", 1, 60),
        Policy("public", 2, 60, scope="address"),
    )
)


class World:
    """One limiter over a memory store and a clock that stands still."""

    def __init__(self, options: RouteOptions | None = None, app: App | None = None) -> None:
        self.clock = StoreHarness.clock_at_start()
        self.metrics = Metrics()
        self.limiter = Limiter(MemoryStore(MIB, self.clock), TABLE)
        self.limits = Limits(self.limiter, self.metrics, default=policies_by_method, upgrade_url="/plans")
        self.options = options
        self.app = app or App()

    def served(self, principal: Principal | None = ANN, client: str = "203.0.113.9") -> ASGIApp:
        return inside(
            LimiterLayer(self.app, limits=self.limits), principal=principal, options=self.options, client=client
        )

    async def used(self, policy: str, principal: Principal | None = ANN) -> int:
        caller = Caller("203.0.113.9")
        if principal is not None:
            caller = Caller("203.0.113.9", principal.actor, principal.organization, principal.role, principal.tier)
        decision = await self.limiter.check((policy,), caller, commit=False)
        return decision.states[0].used


def by_operation(body: Mapping[str, Any]) -> tuple[str, ...]:
    return ("general", "write") if body.get("operation") == "CREATE" else ("general",)


CLASSED = RouteOptions(limits=("general",), classify=by_operation, classify_bytes=100)


async def post(world: World, value: Any, *, principal: Principal | None = ANN, **more: Any) -> Reply:
    body = value if isinstance(value, bytes | list) else json.dumps(value).encode()
    return await call(world.served(principal), method="POST", body=body, **more)


class TestPassing:
    async def test_the_headers_tell_where_the_caller_stands(self) -> None:
        world = World(RouteOptions(limits=("general", "read")))
        headers = (await call(world.served())).headers
        assert {name: headers[name] for name in headers if "ratelimit" in name} == {
            "x-ratelimit-limit": "3",
            "x-ratelimit-remaining": "2",
            "x-ratelimit-used": "1",
            "x-ratelimit-reset": "2025-06-16T00:01:01Z",
            "x-ratelimit-window": "60",
            "x-ratelimit-tier": "pro",
            "ratelimit-policy": '"read";q=3;w=60',
            "ratelimit": '"read";r=2;t=61',
        }

    @pytest.mark.parametrize(("method", "quota"), [("GET", "3"), ("HEAD", "3"), ("POST", "2"), ("DELETE", "1")])
    async def test_a_route_that_declares_nothing_is_classed_by_its_method(self, method: str, quota: str) -> None:
        assert (await call(World().served(), method=method)).headers["x-ratelimit-limit"] == quota

    async def test_a_route_whose_handler_spends_itself_spends_nothing_here(self) -> None:
        world = World(RouteOptions(limits=()))
        replies = [await call(world.served()) for _ in range(10)]
        assert {reply.status for reply in replies} == {200}
        assert not [name for name in replies[0].headers if "ratelimit" in name]


class TestRefusals:
    async def refusal(self) -> tuple[World, Reply]:
        world = World(RouteOptions(limits=("general", "read")))
        replies = [await call(world.served()) for _ in range(4)]
        assert [200, 200, 200, 429] == [reply.status for reply in replies]
        return world, replies[-1]

    async def test_a_refusal_has_every_header_and_member(self) -> None:
        _, reply = await self.refusal()
        assert reply.headers["retry-after"] == "61"
        assert reply.headers["ratelimit-policy"] == '"general";q=5;w=60, "read";q=3;w=60'
        assert reply.headers["ratelimit"] == '"general";r=2;t=61, "read";r=0;t=61'
        assert (reply.headers["x-ratelimit-limit"], reply.headers["x-ratelimit-remaining"]) == ("3", "0")
        assert (reply.code, reply.json["status"], reply.json["requestId"]) == ("RATE_LIMIT_EXCEEDED", 429, "request-1")
        assert reply.json["retryAfter"] == 61
        assert (reply.json["currentTier"], reply.json["upgradeUrl"]) == ("pro", "/plans")
        assert reply.json["violated-policies"] == ["read"]
        assert [("general", 2), ("read", 0)] == [(one["policy"], one["remaining"]) for one in reply.json["limits"]]

    async def test_a_refusal_spends_nothing_and_runs_nothing(self) -> None:
        world, _ = await self.refusal()
        assert (world.app.runs, await world.used("general"), await world.used("read")) == (3, 3, 3)

    async def test_a_refusal_is_counted_by_policy(self) -> None:
        world, _ = await self.refusal()
        assert b'rate_limit_exceeded_total{policy="read"} 1.0' in world.metrics.exposition("")[0]

    async def test_whoever_waits_as_told_passes(self) -> None:
        world, reply = await self.refusal()
        world.clock.advance(float(reply.headers["retry-after"]))
        assert (await call(world.served())).status == 200

    async def test_the_body_of_a_refused_request_is_never_read(self) -> None:
        world = World(RouteOptions(limits=("delete",)))
        await call(world.served(), method="POST")
        assert (await call(world.served(), method="POST", body=Unreadable())).status == 429


class TestCallers:
    async def test_members_of_one_organisation_have_quotas_of_their_own(self) -> None:
        world = World(RouteOptions(limits=("delete",)))
        replies = [await call(world.served(who)) for who in (ANN, BOB, ANN)]
        assert [200, 200, 429] == [reply.status for reply in replies]

    async def test_strangers_are_counted_by_address(self) -> None:
        world = World(RouteOptions(limits=("public",)))
        addresses = ["203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2"]
        replies = [await call(world.served(None, client=address)) for address in addresses]
        assert [200, 200, 429, 200] == [reply.status for reply in replies]

    async def test_a_whole_ipv6_network_is_one_stranger(self) -> None:
        world = World(RouteOptions(limits=("public",)))
        replies = [await call(world.served(None, client=f"2001:db8::{n}")) for n in range(3)]
        assert [200, 200, 429] == [reply.status for reply in replies]


class TestClassesInTheBody:
    async def test_the_body_names_the_class_and_reaches_the_handler_whole(self) -> None:
        world = World(CLASSED)
        await post(world, [b'{"operation": ', b'"CREATE"}'])
        assert world.app.seen == [("/", b'{"operation": "CREATE"}')]
        assert (await world.used("general"), await world.used("write")) == (1, 1)

    async def test_each_request_is_classed_once(self) -> None:
        world = World(CLASSED)
        await post(world, {"operation": "READ"})
        assert (await world.used("general"), await world.used("write")) == (1, 0)

    @pytest.mark.parametrize("body", [b"[1]", b'"text"', b"1", b"null"])
    async def test_json_that_is_no_object_spends_the_routes_own_and_is_judged_there(self, body: bytes) -> None:
        world = World(CLASSED)
        assert (await post(world, body)).status == 200
        assert (world.app.seen, await world.used("general")) == ([("/", body)], 1)

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b"[" * 90], ids=repr)
    async def test_broken_json_is_400_and_has_been_charged(self, body: bytes) -> None:
        world = World(CLASSED)
        reply = await post(world, body)
        assert (reply.status, reply.code, world.app.runs) == (400, "MALFORMED_REQUEST", 0)
        assert await world.used("general") == 1

    async def test_a_body_too_large_to_class_is_413_and_has_been_charged(self) -> None:
        world = World(CLASSED)
        reply = await post(world, [b"x" * 60, b"x" * 60])
        assert (reply.status, reply.code, world.app.runs) == (413, "BODY_TOO_LARGE", 0)
        assert await world.used("general") == 1

    async def test_rubbish_is_refused_like_everything_else_when_the_quota_is_gone(self) -> None:
        world = World(CLASSED)
        replies = [await post(world, b"{") for _ in range(6)]
        assert [400] * 5 + [429] == [reply.status for reply in replies]

    async def test_a_client_that_leaves_in_mid_body_has_spent_nothing(self) -> None:
        world = World(CLASSED)
        reply = await post(world, [b'{"operation": '], leaves=True)
        assert (reply.starts, world.app.runs, await world.used("general")) == (0, 0, 0)

    async def test_a_strangers_body_is_not_read(self) -> None:
        world = World(CLASSED, App())
        layer = LimiterLayer(_answering_unread, limits=world.limits)
        reply = await call(inside(layer, options=CLASSED), method="POST", body=Unreadable())
        assert reply.status == 401


async def _answering_unread(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class TestOnBehalfOfAHandler:
    async def test_enforcing_raises_the_refusal_with_its_headers(self) -> None:
        world, who = World(), Caller("203.0.113.9")
        await world.limits.enforce(("delete",), who, commit=True)
        with pytest.raises(LimitExceeded) as refused:
            await world.limits.enforce(("delete",), who, commit=True)
        assert dict(refused.value.headers)[b"retry-after"] == b"61"

    async def test_looking_spends_nothing(self) -> None:
        world, who = World(), Caller("203.0.113.9")
        for _ in range(5):
            await world.limits.enforce(("delete",), who, commit=False)


async def test_other_scopes_pass_untouched() -> None:
    world = World()
    await LimiterLayer(world.app, limits=world.limits)({"type": "websocket"}, nothing, nothing)
    assert world.app.seen == [("websocket", b"")]
