"""A small application of somebody who uses b1's database and cache: slow queries, a fork, and loads inside transactions."""

from __future__ import annotations

import asyncio
import os
import time

from fastapi import FastAPI

from b1 import B1
from b1.db import Lease

app = FastAPI()
b1 = B1(app)
together = asyncio.Barrier(3)
MEETING_LIMIT_S = 20.0


@app.get("/pid")
async def pid() -> int:
    return os.getpid()


@app.get("/query")
async def query(s: float = 0.0) -> int:
    await b1.db.execute("SELECT pg_sleep($1)", s)
    return os.getpid()


@app.get("/abandoned")
@b1.deadline(0.5)
async def abandoned() -> None:
    await b1.db.execute("SELECT pg_sleep(60)")


@app.get("/overdue")
async def overdue() -> None:
    """Run into the server's own limit, made short for this statement."""
    async with b1.db.acquire() as lease, lease.transaction():
        await lease.execute("SET LOCAL statement_timeout = 100")
        await lease.execute("SELECT pg_sleep(60)")


@app.get("/fork")
async def fork() -> int:
    """Leave a child that does nothing, in the middle of three connections."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


@app.get("/load-within")
async def load_within(key: str) -> int:
    """Miss a cached key inside a transaction, and load it with the transaction's own lease."""
    async with b1.db.acquire() as lease, lease.transaction():
        await _meet(lease)
        return await b1.cache.get_or_load(key, lambda: lease.fetchval("SELECT 7"), ttl_s=60)


@app.get("/load-beside")
async def load_beside(key: str) -> int:
    """Do it wrong: the load asks for a second connection while the transaction holds the first."""
    async with b1.db.acquire() as lease, lease.transaction():
        await _meet(lease)
        return await b1.cache.get_or_load(key, lambda: b1.db.fetchval("SELECT 7"), ttl_s=60)


@app.get("/load")
async def load(key: str) -> int:
    return await b1.cache.get_or_load(key, lambda: b1.db.fetchval("SELECT 7"), ttl_s=60)


async def _meet(lease: Lease) -> None:
    """Wait until three transactions hold all there is."""
    await lease.fetchval("SELECT 1")
    async with asyncio.timeout(MEETING_LIMIT_S):
        await together.wait()
