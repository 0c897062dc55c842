"""A client of raw ASGI messages, and a stand-in for the layers outside the one under test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.options import RouteOptions
from b1.asgi.routes import Route
from b1.types import ASGIApp, Message, Principal, Receive, Scope, Send

LIMIT_S = 20.0
ANN = Principal("ann", "1", tier="pro")
BOB = Principal("bob", "1", tier="pro")
LENGTH = (b"content-length", b"2")


@dataclass
class Reply:
    """What the client got. `starts` counts answers: two are a broken connection."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    starts: int = 0
    is_complete: bool = False
    lines: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The problem's code; None when the answer is no problem document."""
        return self.json["code"] if self.headers.get("content-type") == "application/problem+json" else None


class App:
    """A plain ASGI application: reads the whole body, answers, and remembers what it saw."""

    def __init__(
        self, status: int = 200, body: bytes = b"ok", headers: Sequence[tuple[bytes, bytes]] = (LENGTH,)
    ) -> None:
        self.status = status
        self.body = body
        self.headers = list(headers)
        self.seen: list[tuple[str, bytes]] = []

    @property
    def runs(self) -> int:
        return len(self.seen)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            self.seen.append((scope["type"], b""))
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.seen.append((scope["path"], body))
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": self.body})


class Unreadable:
    """A body that fails the test when somebody reads it."""

    def __iter__(self) -> Any:
        raise AssertionError("the body was read")


async def call(
    app: ASGIApp,
    path: str = "/",
    method: str = "GET",
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: bytes | Sequence[bytes] | Unreadable = b"",
    leaves: bool = False,
    client: tuple[str, int] | None = ("203.0.113.9", 1234),
    query: bytes = b"",
    **more: Any,
) -> Reply:
    """Send one request and collect the answer.

    Args:
        body: pieces become messages of their own.
        leaves: the client disconnects after the given pieces, before the body is complete.
    """
    reply = Reply()
    pieces: Any = None

    async def receive() -> Message:
        nonlocal pieces
        if pieces is None:
            pieces = list([body] if isinstance(body, bytes) else body)
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces) or leaves}
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.starts += 1
            reply.status = message["status"]
            reply.lines = list(message.get("headers", ()))
            reply.headers = {name.decode().lower(): value.decode("latin-1") for name, value in reply.lines}
        elif message["type"] == "http.response.body":
            reply.body += message.get("body", b"")
            reply.is_complete = not message.get("more_body", False)

    async with asyncio.timeout(LIMIT_S):
        await app(http(path, method, headers=headers, client=client, query=query, **more), receive, send)
    return reply


def http(path: str = "/", method: str = "GET", *, query: bytes = b"", **more: Any) -> Scope:
    """Return the scope of an HTTP request."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query, "headers": [],
        "client": ("203.0.113.9", 1234), "server": ("test", 80),
    }  # fmt: skip
    given = {name: value for name, value in more.items() if value is not None or name == "client"}
    return {**scope, **given, "headers": list(given.get("headers", ()))}


async def nothing(*_: object) -> Any:
    """Stand for `receive` and `send` where neither may be called."""
    raise AssertionError


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


def inside(
    layer: ASGIApp,
    *,
    principal: Principal | None = None,
    options: RouteOptions | None = None,
    client: str = "203.0.113.9",
    template: str = "/",
    contexts: list[RequestContext] | None = None,
    started_s: float = 0.0,
) -> ASGIApp:
    """Put a request's context around `layer`, as the layers outside it would, and add its headers to the answer."""
    route = Route(template, options or RouteOptions())

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext("request-1", started_s, route, {}, dict(scope["headers"]))
        context.principal = principal
        context.client = client
        scope["b1"] = context
        if contexts is not None:
            contexts.append(context)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *context.response_headers]}
            await send(message)

        token = CONTEXT.set(context)
        try:
            await layer(scope, receive, send_with_headers)
        finally:
            CONTEXT.reset(token)

    return outer


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Run the application's lifespan around the block."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    life = asyncio.create_task(_run_life(app, inbox, outbox))
    await inbox.put({"type": "lifespan.startup"})
    try:
        async with asyncio.timeout(LIMIT_S):
            started = await outbox.get()
            assert started["type"] == "lifespan.startup.complete", started
            yield
            await inbox.put({"type": "lifespan.shutdown"})
            ended = await outbox.get()
            assert ended["type"] == "lifespan.shutdown.complete", ended
            await life
    finally:
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life


async def _run_life(app: ASGIApp, inbox: asyncio.Queue[Message], outbox: asyncio.Queue[Message]) -> None:
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    try:
        await app(scope, inbox.get, outbox.put)
    finally:
        await outbox.put({"type": "ended"})
