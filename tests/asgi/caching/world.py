"""The response cache over a handler that does what the test says, with a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.service import ResponseCache
from b1.asgi.middleware.cache import CacheLayer
from b1.asgi.options import CacheOptions, RouteOptions
from b1.cache import L1
from b1.clock import ManualClock
from b1.store.memory import MemoryStore
from b1.types import ASGIApp, Principal, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.raw import ANN, Reply, call, inside

Lines = Sequence[tuple[bytes, bytes]]
ORGANIZATION = CacheOptions(ttl_s=3600, vary="organization", tags=("ledger:{organization}",))
PUBLIC = CacheOptions(ttl_s=3600, vary="public")


class Handler:
    """Answers with `body` and counts its runs; `seen` are the requests as the handler saw them."""

    def __init__(self, body: bytes = b"ok", headers: Lines = (), status: int = 200) -> None:
        self.body = body
        self.headers = list(headers)
        self.status = status
        self.seen: list[Scope] = []
        self.answer: Callable[[Scope], tuple[int, Lines, bytes]] | None = None
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()

    @property
    def runs(self) -> int:
        return len(self.seen)

    def header(self, name: bytes, run: int = -1) -> bytes | None:
        """Return a header of a request as the handler saw it."""
        return dict(self.seen[run]["headers"]).get(name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        status, headers, body = self.answer(scope) if self.answer else (self.status, self.headers, self.body)
        length = [] if any(name == b"content-length" for name, _ in headers) else [
            (b"content-length", str(len(body)).encode())
        ]  # fmt: skip
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
        await send({"type": "http.response.body", "body": body})


class World:
    """One process with a response cache."""

    def __init__(
        self,
        options: CacheOptions = ORGANIZATION,
        *,
        app: ASGIApp | None = None,
        settings: ResponseCacheOptions | None = None,
        store: MemoryStore | None = None,
        clock: ManualClock | None = None,
        template: str = "/",
        **more: Any,
    ) -> None:
        self.clock = clock or ManualClock()
        self.store = store
        self.l1 = L1(4 * MIB, self.clock, versions=store.versions if store is not None else None)
        self.responses = ResponseCache(self.l1, self.clock, store=store, options=settings, **more)
        self.handler = Handler()
        self.layer = CacheLayer(app or self.handler, responses=self.responses)
        self.options = RouteOptions(cache=options)
        self.template = template
        # One route for all requests, as a table makes each once.
        self._inside: dict[Principal | None, ASGIApp] = {}

    async def get(self, path: str = "/x", principal: Principal | None = ANN, method: str = "GET", **more: Any) -> Reply:
        app = self._inside.get(principal)
        if app is None:
            app = self._inside[principal] = inside(
                self.layer, principal=principal, options=self.options, template=self.template
            )
        return await call(app, path, method, **more)

    @property
    def runs(self) -> int:
        return self.handler.runs

    async def settle(self) -> None:
        """Let what runs in the background end."""
        for _ in range(200):
            if not len(self.responses.refreshes) and not self.responses.snapshot().writing:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"still busy: {self.responses!r}")


class SharedStore(MemoryStore):
    """A store that two worlds share, as they would share a Redis."""

    mode = "redis"


def status_of(reply: Reply) -> str:
    """Return what Cache-Status says, without the numbers."""
    return reply.headers.get("cache-status", "")
