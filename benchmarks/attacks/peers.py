"""The attacked application with what people combine today, each keeping its state in memory, as their READMEs show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_cache import FastAPICache
from fastapi_cache.backends.inmemory import InMemoryBackend
from idempotency_header_middleware import IdempotencyHeaderMiddleware
from idempotency_header_middleware.backends import MemoryBackend
from prometheus_fastapi_instrumentator import Instrumentator
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from slowapi.util import get_remote_address

from attacks.routes import add_routes, encode

TTL_S = 300


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    FastAPICache.init(InMemoryBackend(), prefix="peers")
    yield


app = FastAPI(lifespan=_lifespan)
app.state.limiter = Limiter(key_func=get_remote_address, default_limits=["100000/minute"], storage_uri="memory://")
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
app.add_middleware(SlowAPIMiddleware)
app.add_middleware(IdempotencyHeaderMiddleware, backend=MemoryBackend())
Instrumentator().instrument(app).expose(app)


async def cached(key: str, load: Callable[[], Awaitable[Any]]) -> Any:
    """Do what the `cache` decorator does, with a key of ours."""
    backend = FastAPICache.get_backend()
    found = await backend.get(key)
    if found is None:
        found = encode(await load())
        await backend.set(key, found, TTL_S)
    return found


add_routes(app, cached)


@app.get("/live")
@app.get("/ready")
async def probe() -> dict[str, str]:
    """Answer a probe."""
    return {"status": "ok"}
