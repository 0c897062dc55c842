"""The application with asyncpg's own pool of three connections, as its documentation shows it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, Response

from overloading.application import CONNECTIONS, QUERY, WAITS_S, fast


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=_lifespan)
for path in ("/fast", "/live", "/ready"):
    app.get(path)(fast)


@app.get("/query")
async def query() -> Response:
    """Ask Postgres for something that takes it 20 ms."""
    await app.state.pool.execute(QUERY, WAITS_S)
    return Response(b"ok")
