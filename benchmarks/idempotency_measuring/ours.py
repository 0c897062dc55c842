"""`B1(app)` with the same handler five times: with and without a key, in and out of a transaction, and a cached answer.

REDIS_URL and DATABASE_URL decide what is behind it; the table is made at the first start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from b1 import B1
from b1.profile import ensure_wrapped
from idempotency_measuring.order import (
    CACHED,
    COUNTS,
    KEYED,
    KEYED_TRANSACTION,
    PLAIN,
    PLAIN_TRANSACTION,
    Made,
    Order,
    asked,
    make,
)

_TABLE = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text, note text)"
_INSERT = "INSERT INTO orders (item, note) VALUES ($1, $2) RETURNING id"


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    if b1.runtime.database is not None:
        await b1.db.execute(_TABLE)
    yield


application = FastAPI(lifespan=_lifespan)
b1 = B1(application)


@application.post(PLAIN)
async def plain(order: Order) -> Made:
    return make(order)


@application.post(KEYED)
@b1.idempotent(required=True)
async def keyed(order: Order) -> Made:
    return make(order)


@application.post(PLAIN_TRANSACTION)
async def plain_transaction(order: Order) -> Made:
    async with b1.db.acquire() as lease, lease.transaction():
        number = await lease.fetchval(_INSERT, order.item, order.note)
    return make(order, number)


@application.post(KEYED_TRANSACTION)
@b1.idempotent(required=True, transactional=True)
async def keyed_transaction(order: Order) -> Made:
    async with b1.idempotent.transaction() as tx:
        number = await tx.fetchval(_INSERT, order.item, order.note)
    return make(order, number)


@application.get(CACHED)
@b1.cached(ttl_s=300, vary="organization")
async def cached() -> Made:
    return make(Order(**asked()))


@application.get(COUNTS)
async def counts() -> int:
    """Say how many statements were sent to Postgres."""
    return sum(one.calls for one in b1.db.snapshot().statements) if b1.runtime.database is not None else 0


app = ensure_wrapped(application)  # what the worker of `b1 run` serves
