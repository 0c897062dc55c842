"""Nobody sees what is another's: not the answer, not its secrets, not the key in a log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from itertools import product
from typing import Any

import asyncpg
import pytest

from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.middleware.idempotency import IdempotencyMiddleware
from b1.asgi.options import RouteOptions
from b1.asgi.routes import Route
from b1.db import Database
from b1.errors import InvalidSetting, StoreUnavailable
from b1.idempotency import STORED_HEADERS, Attempt, IdempotencyOptions, ServiceOptions
from b1.idempotency.headers import storable_headers
from b1.store.memory import MemoryStore
from b1.types import ASGIApp, Headers, Principal, Receive, Scope, Send
from tests.idempotency.harness import Reply, World, make_thing, post

KEY = "a-key-that-nobody-may-read-4711"


class Answering:
    """Answers with who asked, and the headers it was given."""

    def __init__(self, headers: Headers | None = None) -> None:
        self.runs = 0
        self._headers = headers or []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.runs += 1
        context: RequestContext = scope["b1"]
        who = context.principal
        assert who is not None
        values = dict(context.path_values)
        body = f"{who.organization}/{who.actor} {scope['method']} {context.route.template} {values}".encode()
        headers = [(b"content-length", str(len(body)).encode()), *self._headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def serve(world: World, app: ASGIApp) -> ASGIApp:
    """Put the layer around `app`; template and path values come from the request's path, ``template@value``."""
    inner = IdempotencyMiddleware(app, world.service)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        template, _, value = scope["path"].partition("@")
        route = Route(template, RouteOptions(idempotency=world.route))
        context = RequestContext("r", 0.0, route, {"id": value} if value else {}, dict(scope["headers"]))
        context.principal = scope.pop("principal")
        scope["b1"] = context
        token = CONTEXT.set(context)
        try:
            await inner(scope, receive, send)
        finally:
            CONTEXT.reset(token)

    return outer


async def test_no_two_scopes_share_an_answer() -> None:
    world, app = World(), Answering()
    served = serve(world, app)
    organizations, actors = ("1", "2", "", None, "1/ann"), ("ann", "bob", "1", "")
    methods, paths = ("POST", "PUT", "PATCH", "DELETE"), ("/a/{id}@1", "/a/{id}@2", "/b", "/b/1")
    scopes = list(product(organizations, actors, methods, paths))

    async def ask(one: tuple[str | None, str, str, str]) -> Reply:
        organization, actor, method, path = one
        who = Principal(actor=actor, organization=organization)
        return await post(served, {"a": 1}, KEY, principal=who, method=method, path=path)

    first = [await ask(one) for one in scopes]
    again = [await ask(one) for one in scopes]
    assert app.runs == len(scopes) == len({reply.body for reply in first}) == 320
    assert [reply.body for reply in again] == [reply.body for reply in first]
    assert {reply.replayed for reply in first} == {False} and {reply.replayed for reply in again} == {True}


async def test_a_foreign_key_with_another_payload_is_no_conflict() -> None:
    """A conflict would tell that somebody else uses the key."""
    served = serve(World(), Answering())
    await post(served, {"a": 1}, KEY)
    stranger = Principal(actor="ann", organization="2")
    assert (await post(served, {"a": 2}, KEY, principal=stranger)).status == 200


async def test_a_fresh_token_is_the_same_caller() -> None:
    served = serve(World(), Answering())
    tokens = (b"Bearer one", b"Bearer two")
    replies = [await post(served, {"a": 1}, KEY, headers=((b"authorization", token),)) for token in tokens]
    assert [reply.replayed for reply in replies] == [False, True]


SECRETS: Headers = [
    (b"Set-Cookie", b"session=secret"), (b"set-cookie", b"other=secret"), (b"authorization", b"Bearer secret"),
    (b"Proxy-Authorization", b"secret"), (b"www-authenticate", b"secret"), (b"proxy-authenticate", b"secret"),
    (b"authentication-info", b"secret"), (b"cookie", b"secret"), (b"connection", b"secret"), (b"keep-alive", b"secret"),
    (b"te", b"secret"), (b"trailer", b"secret"), (b"upgrade", b"secret"), (b"date", b"secret"), (b"server", b"secret"),
    (b"x-request-id", b"secret"), (b"traceparent", b"secret"), (b"retry-after", b"secret"), (b"vary", b"secret"),
    (b"X-RateLimit-Remaining", b"secret"), (b"ratelimit", b"secret"), (b"access-control-allow-origin", b"secret"),
    (b"x-of-the-application", b"secret"),
]  # fmt: skip


@pytest.mark.parametrize("transactional", [False, True])
async def test_no_secret_is_stored_or_replayed(database: Database, transactional: bool) -> None:
    world = World(database if transactional else None)
    app: ASGIApp = Answering([*SECRETS, (b"location", b"/things/1")])
    if transactional:
        app = with_block(app)
    served = serve(world, app)
    first, again = await post(served, {"a": 1}, KEY), await post(served, {"a": 1}, KEY)
    assert first.headers["set-cookie"] and again.replayed and again.headers["location"] == "/things/1"
    assert "secret" not in repr(again.headers)
    assert isinstance(world.store, MemoryStore)
    (key,) = world.store.claims.keys()
    kept = world.store.claims.kept(key, world.store.now_ms())
    assert kept is not None and b"/things/1" in kept.record and b"secret" not in kept.record
    if transactional:
        assert b"secret" not in await database.fetchval("SELECT record FROM b1_idempotency")


def with_block(app: ASGIApp) -> ASGIApp:
    async def blocked(scope: Scope, receive: Receive, send: Send) -> None:
        async with scope["b1"].attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
        await app(scope, receive, send)

    return blocked


@pytest.mark.parametrize("name", sorted({name.decode() for name, _ in SECRETS[:-1]}))
def test_a_route_cannot_ask_for_a_secret(name: str) -> None:
    with pytest.raises(InvalidSetting, match="stored_headers"):
        IdempotencyOptions(stored_headers=(name,))


@pytest.mark.parametrize("name", ["", "x y", "x:y", "é"])
def test_what_is_no_header_cannot_be_stored(name: str) -> None:
    with pytest.raises(InvalidSetting, match="stored_headers"):
        IdempotencyOptions(stored_headers=(name,))


async def test_a_route_s_own_headers_are_replayed() -> None:
    world = World(route=IdempotencyOptions(stored_headers=("X-Receipt",)))
    served = serve(world, Answering([(b"x-receipt", b"17"), (b"x-other", b"18")]))
    await post(served, {"a": 1}, KEY)
    again = await post(served, {"a": 1}, KEY)
    assert (again.headers.get("x-receipt"), again.headers.get("x-other")) == ("17", None)


def test_the_usual_headers_are_stored_in_their_order() -> None:
    sent: Headers = [(name.title(), b"1") for name in sorted(STORED_HEADERS)] + [(b"X-Other", b"2")]
    assert storable_headers(sent) == tuple((name, b"1") for name in sorted(STORED_HEADERS))


async def test_no_log_line_and_no_answer_has_the_key(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    world = World(database, options=ServiceOptions(mismatch_status=422))
    app = world.handle(make_thing)
    replies = [
        await post(app, {"a": 1}, KEY),
        await post(app, {"a": 1}, KEY),
        await post(app, {"a": 2}, KEY),
        await post(app, {"a": 1}, KEY + " é"),
        await post(app, {"a": 1}, KEY * 20),
        await post(app, {"a": 1}, KEY, headers=((b"x-idempotency-key", b"other"),)),
    ]

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("gone")

    async def careless(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            with contextlib.suppress(asyncpg.NotNullViolationError):
                await tx.execute("INSERT INTO effects VALUES (NULL)")
        return {}

    replies.append(await post(World(database).handle(careless), {"a": 1}, KEY + "-lost"))
    monkeypatch.setattr(world.store, "claim", fail)
    replies.append(await post(app, {"a": 1}, KEY))
    assert [reply.status for reply in replies] == [201, 201, 422, 400, 400, 400, 500, 201]
    said = "".join(str(record.__dict__) for record in caplog.records) + "".join(map(repr, replies))
    assert "outcome lost" in said and KEY not in said


async def test_nothing_personal_is_in_the_store_s_names() -> None:
    world = World()
    who = Principal(actor="ann@example.com", organization="Ann's Pantry")
    await post(serve(world, Answering()), {"a": 1}, KEY, principal=who)
    assert isinstance(world.store, MemoryStore)
    names = repr(world.store.claims.keys())
    assert "ann" not in names.lower() and KEY not in names


async def test_an_attempt_s_repr_has_no_key() -> None:
    seen: list[str] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        seen.append(repr(attempt))
        return {}

    await asyncio.wait_for(post(World().handle(handler), {"a": 1}, KEY), 20)
    assert len(seen) == 1 and KEY not in seen[0]
