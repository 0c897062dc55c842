"""What people combine today: slowapi, fastapi-cache2, prometheus-fastapi-instrumentator, asgi-idempotency-header.

Each as its own README shows it, all on one Redis. There is no authentication here: none of the four brings it. slowapi
counts by the Authorization header instead, which costs no look-up, and sends its headers as b1 sends its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi_cache import FastAPICache
from fastapi_cache.backends.redis import RedisBackend as CacheBackend
from fastapi_cache.decorator import cache
from idempotency_header_middleware import IdempotencyHeaderMiddleware
from idempotency_header_middleware.backends import RedisBackend as IdempotencyBackend
from prometheus_fastapi_instrumentator import Instrumentator
from redis import asyncio as redis
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded

from contenders.document import CACHED_PATH, PATH, Balance, read_balance

# Above what one caller of the load sends in a minute, and no higher: a moving window keeps an entry per request.
RATE = "1000/minute"


def _caller(request: Request) -> str:
    return request.headers["authorization"]


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    FastAPICache.init(CacheBackend(client), prefix="peers")
    yield
    await client.close()


client = redis.from_url(os.environ["REDIS_URL"])
limiter = Limiter(
    key_func=_caller,
    storage_uri=os.environ["REDIS_URL"],
    strategy=os.environ["SLOWAPI_STRATEGY"],
    headers_enabled=True,
)
app = FastAPI(lifespan=_lifespan)
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
app.add_middleware(IdempotencyHeaderMiddleware, backend=IdempotencyBackend(client))
Instrumentator().instrument(app).expose(app)


@app.get(PATH)
@limiter.limit(RATE)
async def balance(request: Request, response: Response) -> Balance:
    return await read_balance()


@app.get(CACHED_PATH)
@limiter.limit(RATE)
@cache(expire=300)
async def balance_cached(request: Request, response: Response) -> Balance:
    return await read_balance()
