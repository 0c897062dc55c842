"""The attacked application with `B1(app)`; the store is memory unless the environment names others.

With a database or a Redis configured, innocent requests use them, so that a census has something to count.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI

from attacks.routes import add_routes
from b1 import B1

TTL_S = 300.0

app = FastAPI()
b1 = B1(app)


async def cached(key: str, load: Callable[[], Awaitable[Any]]) -> Any:
    """Ask b1's cache."""
    return await b1.cache.get_or_load(key, load, ttl_s=TTL_S)


add_routes(app, cached)


@app.get("/innocent/stored")
async def stored() -> dict[str, Any]:
    """Ask Postgres for one number."""
    return {"number": await b1.db.fetchval("SELECT 1")}
