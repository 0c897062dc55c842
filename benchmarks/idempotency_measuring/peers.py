"""The same handler behind PyPI's two middlewares, each as its README shows it; PEER says which, none for bare FastAPI.

asgi-idempotency-header keeps its records in Redis or in memory, fastapi-idempotency in memory (it has a store for Tortoise
ORM, and none for Redis); its caller is the Authorization header here, as its README advises for signed-in users.
"""

from __future__ import annotations

import os

from fastapi import FastAPI, Request

from idempotency_measuring.order import KEYED, PLAIN, Made, Order, make

app = FastAPI()


@app.post(PLAIN)
@app.post(KEYED)
async def order(order: Order) -> Made:
    return make(order)


def _caller(request: Request) -> str:
    return request.headers["authorization"]


match os.environ["PEER"]:
    case "asgi-idempotency-header":
        from idempotency_header_middleware import IdempotencyHeaderMiddleware
        from idempotency_header_middleware.backends import MemoryBackend, RedisBackend
        from redis import asyncio as redis

        url = os.environ.get("REDIS_URL")
        backend = MemoryBackend() if url is None else RedisBackend(redis.from_url(url))
        app.add_middleware(IdempotencyHeaderMiddleware, backend=backend)
    case "fastapi-idempotency":
        from fastapi_idempotency import IdempotencyMiddleware

        app.add_middleware(IdempotencyMiddleware, scope=_caller)
