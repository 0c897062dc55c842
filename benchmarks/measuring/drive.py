"""Drive a contender in this process, without sockets: ``python -m measuring.drive APP PATH COUNT``, for instruction counts.

Of two runs that differ only in COUNT the difference is the requests' own; imports and start-up cancel out.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from measuring.tokens import callers

Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Any]], Send], Coroutine[Any, Any, None]]


async def drive(app: ASGIApp, path: str, count: int) -> None:
    """Start the application, send `count` requests one after the other by one caller, and stop it."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "lifespan.startup"})
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    lifespan = asyncio.create_task(app(scope, inbox.get, outbox.put))
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    headers = [(name.encode(), value.encode()) for name, value in callers()[0].items()]
    for _ in range(count):
        assert await request(app, path, headers) == 200
    inbox.put_nowait({"type": "lifespan.shutdown"})
    await lifespan


async def request(app: ASGIApp, path: str, headers: list[tuple[bytes, bytes]]) -> int:
    """Send one GET and return the status; the scope is what uvicorn makes."""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers),
        "state": {},
    }
    await app(scope, receive, send)
    return status


def main(app: str, path: str, count: str) -> None:
    module, _, attribute = app.partition(":")
    asyncio.run(drive(getattr(importlib.import_module(module), attribute), path, int(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
