"""A FastAPI application with idempotent routes, one process's worth of services around it, and a client of raw ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.handlers import install_handlers
from b1.asgi.middleware.idempotency import IdempotencyMiddleware
from b1.asgi.options import RouteOptions
from b1.asgi.routes import Route
from b1.clock import Clock, SystemClock
from b1.db import Database, DatabaseOptions
from b1.idempotency import Attempt, Idempotency, IdempotencyOptions, ServiceOptions
from b1.store.base import Store
from b1.store.memory import MemoryStore
from b1.types import ASGIApp, Message, Principal, Receive, Scope, Send
from b1.units import MIB

ANN = Principal(actor="ann", organization="1")
BOB = Principal(actor="bob", organization="1")
MIGRATION = Path(__file__).parents[2] / "b1/db/migrations/0001_idempotency.sql"
LIMIT_S = 20.0

Handler = Callable[[Attempt, dict[str, Any]], Awaitable[Any]]


@dataclass
class Reply:
    """What the client got."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    starts: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.json.get("code") if "problem" in self.headers.get("content-type", "") else None

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"


class World:
    """One process: its store, its database connections, its service."""

    def __init__(
        self,
        database: Database | None = None,
        store: Store | None = None,
        *,
        clock: Clock | None = None,
        route: IdempotencyOptions | None = None,
        options: ServiceOptions | None = None,
        body_limit_bytes: int = MIB,
    ) -> None:
        self.body_limit_bytes = body_limit_bytes
        self.clock = clock or SystemClock()
        self.database = database
        self.store = store or MemoryStore(4 * MIB, self.clock)
        self.service = Idempotency(self.store, database, options or ServiceOptions(), self.clock)
        self.route = route or IdempotencyOptions(transactional=database is not None)
        self.app = FastAPI()
        install_handlers(self.app)

    def serve(self, app: ASGIApp) -> ASGIApp:
        """Put the layer, and a stand-in for the layers outside of it, around `app`."""
        inner = IdempotencyMiddleware(app, self.service, body_limit_bytes=self.body_limit_bytes)

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            route = Route(scope["path"], RouteOptions(idempotency=self.route))
            context = RequestContext("r", self.clock.monotonic(), route, {}, dict(scope["headers"]))
            context.principal = scope.pop("principal")
            scope["b1"] = context
            token = CONTEXT.set(context)
            try:
                await inner(scope, receive, send)
            finally:
                CONTEXT.reset(token)

        return outer

    def handle(self, handler: Handler, *, status: int = 201) -> ASGIApp:
        """Serve one FastAPI route, ``POST /things``, that runs `handler`."""

        @self.app.post("/things", status_code=status)
        async def things(body: dict[str, Any]) -> Any:
            return await handler(attempt(), body)

        return self.serve(self.app)


def attempt() -> Attempt:
    """Return the attempt of the request in hand, as the library's public form does."""
    context = CONTEXT.get()
    assert context is not None
    found: Attempt = context.attempt
    return found


async def post(
    app: ASGIApp,
    body: Any = None,
    key: str | None = "k",
    *,
    principal: Principal | None = ANN,
    method: str = "POST",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    messages: list[Message] | None = None,
    path: str = "/things",
    query: bytes = b"",
    content_type: bytes = b"application/json",
    raw: bytes | None = None,
) -> Reply:
    """Send a request and collect its answer; an exception of the application is the server's 500.

    Args:
        raw: the body as it stands, instead of `body` as JSON.
    """
    reply = Reply()
    sent = json.dumps(body or {}).encode() if raw is None else raw
    incoming = messages or [{"type": "http.request", "body": sent, "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> Message:
        if incoming:
            return incoming.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.starts += 1
            reply.status = message["status"]
            reply.headers = {name.decode().lower(): value.decode() for name, value in message.get("headers", ())}
        elif message["type"] == "http.response.body":
            reply.body += message.get("body", b"")

    fields = [(b"content-type", content_type), *headers]
    if key is not None:
        fields.append((b"idempotency-key", key.encode()))
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
        "query_string": query, "headers": fields, "http_version": "1.1", "asgi": {"version": "3.0"},
        "server": ("test", 80), "client": ("127.0.0.1", 1), "principal": principal,
    }  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        await app(scope, receive, send)
    return reply


@asynccontextmanager
async def database_at(url: str, folder: Path, connections: int = 3) -> AsyncIterator[Database]:
    """A running database with the library's table and one for effects."""
    database = Database(DatabaseOptions(url=url, slots_dir=folder, connections=connections))
    await database.start()
    try:
        await database.execute(MIGRATION.read_text() + "; CREATE TABLE IF NOT EXISTS effects (what text NOT NULL)")
        yield database
    finally:
        await database.aclose()


async def empty(database: Database) -> None:
    """Empty every table, and begin every sequence anew."""
    tables = await database.fetchval("SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables "
                                     "WHERE schemaname = 'public'")  # fmt: skip
    await database.execute(f"TRUNCATE {tables} RESTART IDENTITY")


async def effects(database: Database) -> int:
    """Count the effects."""
    return int(await database.fetchval("SELECT count(*) FROM effects"))


async def records(database: Database) -> int:
    """Count the records."""
    return int(await database.fetchval("SELECT count(*) FROM b1_idempotency"))


async def make_thing(attempt: Attempt, body: dict[str, Any]) -> dict[str, Any]:
    """The usual handler: one effect, and an answer that tells two runs apart."""
    async with attempt.transaction() as tx:
        await tx.execute("INSERT INTO effects VALUES ($1)", json.dumps(body))
        number = await tx.fetchval("SELECT count(*) FROM effects")
    return {"id": number, "body": body}


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until `true`, at most `LIMIT_S`."""
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await asyncio.sleep(0.005)
