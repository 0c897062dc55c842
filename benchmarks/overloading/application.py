"""The application that all contenders serve: routes that compute, wait, do both or read a body, and two probes.

Nothing of b1 in it. The computing one holds the loop for 10 ms by the clock, not by the processor, so that a machine that
others disturb does not change what one request costs.
"""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI, Request, Response

HOLDS_S = 0.010
MIXED_HOLDS_S = 0.003
WAITS_S = 0.020
CONNECTIONS = 3
QUERY = "SELECT pg_sleep($1)"

_places = asyncio.Semaphore(CONNECTIONS)


def make_app() -> FastAPI:
    """Return a new application."""
    app = FastAPI()
    app.get("/fast")(fast)
    app.get("/cpu")(compute)
    app.get("/wait")(wait)
    app.get("/mixed")(mixed)
    app.post("/upload")(upload)
    app.get("/live")(fast)
    app.get("/ready")(fast)
    return app


async def fast() -> Response:
    return Response(b"ok")


async def compute() -> Response:
    """Hold the loop for 10 ms."""
    _hold(HOLDS_S)
    return Response(b"ok")


async def wait() -> Response:
    """Wait for 20 ms, three at a time: a database with three connections, without the database's noise."""
    async with _places:
        await asyncio.sleep(WAITS_S)
    return Response(b"ok")


async def mixed() -> Response:
    """Compute 3 ms, wait as `wait` does, and compute 3 ms: the database and the core are about equally scarce."""
    _hold(MIXED_HOLDS_S)
    async with _places:
        await asyncio.sleep(WAITS_S)
    _hold(MIXED_HOLDS_S)
    return Response(b"ok")


async def upload(request: Request) -> Response:
    """Answer how many bytes came."""
    return Response(str(len(await request.body())).encode())


def _hold(seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        pass
