"""An application whose next start the test decides. Copied into the server's folder, beside the files that it reads.

``mood`` says how the next start goes: ``wait`` at import until it says something else, or ``fail`` in the lifespan.
``version`` is what the code of this start is. Every start and end is noted in TINY_EVENTS.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from b1 import B1

FOLDER = Path(__file__).parent
WAIT_LIMIT_S = 30.0


def note(event: str) -> None:
    with open(os.environ["TINY_EVENTS"], "a") as events:
        events.write(f"{event} {os.getpid()}\n")


def mood() -> str:
    return (FOLDER / "mood").read_text()


note("loading")
VERSION = (FOLDER / "version").read_text()
end_s = time.monotonic() + WAIT_LIMIT_S
while mood() == "wait" and time.monotonic() < end_s:
    time.sleep(0.02)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    note("startup")
    if mood() == "fail":
        raise RuntimeError("as asked for")
    yield
    note("shutdown")


app = FastAPI(lifespan=lifespan)
b1 = B1(app)
orders: list[int] = []


@app.get("/pid")
async def pid() -> Response:
    return Response(str(os.getpid()))


@app.get("/version")
async def version() -> Response:
    return Response(VERSION)


@app.get("/slow")
async def slow(s: float = 1.0) -> Response:
    note("slow")
    await asyncio.sleep(s)
    return Response(str(os.getpid()))


@app.get("/stream")
async def stream() -> Response:
    """Send pieces until the file ``gate`` says that it is the end."""

    async def pieces() -> AsyncIterator[bytes]:
        while (FOLDER / "gate").read_text() != "end":
            yield b"and "
            await asyncio.sleep(0.02)
        yield b"end"

    return StreamingResponse(pieces(), media_type="text/plain")


@app.post("/upload")
async def upload(request: Request) -> Response:
    received = 0
    async for piece in request.stream():
        received += len(piece)
    return Response(str(received))


@app.post("/orders")
@b1.idempotent(required=True)
async def order() -> dict[str, int]:
    """Do something that must not be done twice; without Postgres only the store's memory prevents that."""
    orders.append(1)
    return {"number": len(orders), "worker": os.getpid()}
