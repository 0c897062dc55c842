"""The application with `B1(app)`, and what only b1 has: a query, a stream that learns of the stop, and a leak."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from b1 import B1
from replacing.application import STREAM_EVERY_S, WORKER, make_app

LEAK_BYTES = 5_000_000

app = make_app()
b1 = B1(app)
kept: list[bytearray] = []


@app.get("/query")
async def query() -> Response:
    """Ask Postgres for one number."""
    await b1.db.fetchval("SELECT 1")
    return Response(b"ok", headers={WORKER: str(os.getpid())})


@app.get("/endless")
async def endless(request: Request) -> Response:
    """Send lines until the server says that it stops, then say farewell."""
    stopping: asyncio.Event = request.scope["state"]["b1.stopping"]

    async def lines() -> AsyncIterator[bytes]:
        while not stopping.is_set():
            yield b"data: more\n\n"
            await asyncio.sleep(STREAM_EVERY_S)
        yield b"event: farewell\ndata: come back\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={WORKER: str(os.getpid())})


@app.get("/leak")
async def leak() -> Response:
    """Keep 5 MB for good."""
    kept.append(bytearray(b"x" * LEAK_BYTES))
    return Response(str(len(kept)).encode(), headers={WORKER: str(os.getpid())})
