"""The application that all contenders serve: a tiny answer, an upload, a stream of two seconds. Nothing of b1 in it.

Every answer names its worker, so that a client sees who served it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

WORKER = "x-worker"
STREAM_PIECES = 20
STREAM_EVERY_S = 0.1


def make_app() -> FastAPI:
    """Return a new application with the three routes."""
    app = FastAPI()
    app.get("/fast")(fast)
    app.post("/upload")(upload)
    app.get("/stream")(stream)
    return app


async def fast() -> Response:
    return _answer(b"ok")


async def upload(request: Request) -> Response:
    """Answer how many bytes came."""
    received = 0
    async for piece in request.stream():
        received += len(piece)
    return _answer(str(received).encode())


async def stream() -> Response:
    """Send a line every 100 ms for two seconds."""

    async def lines() -> AsyncIterator[bytes]:
        for number in range(STREAM_PIECES):
            yield b"data: %d\n\n" % number
            await asyncio.sleep(STREAM_EVERY_S)

    return StreamingResponse(lines(), media_type="text/event-stream", headers={WORKER: str(os.getpid())})


def _answer(body: bytes) -> Response:
    return Response(body, headers={WORKER: str(os.getpid())}, media_type="text/plain")
