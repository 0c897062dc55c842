"""Counts our client backends from outside, as pg_stat_activity sees them, in a thread that no busy loop disturbs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from tests.servers import PostgresServer

_COUNT = """
    select count(*) from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid() and usename is distinct from 'postgres'
"""
_SAMPLE_S = 0.003


class Census:
    """What was seen so far."""

    def __init__(self) -> None:
        self.highest = 0
        self.latest = 0
        self.samples = 0


@contextmanager
def census(server: PostgresServer) -> Iterator[Census]:
    """Sample the number of backends every few milliseconds while the block runs."""
    seen = Census()
    ready, stop = threading.Event(), threading.Event()

    async def sample() -> None:
        connection = await asyncpg.connect(server.admin_url)
        try:
            while not stop.is_set():
                seen.latest = await connection.fetchval(_COUNT)
                seen.highest = max(seen.highest, seen.latest)
                seen.samples += 1
                ready.set()
                await asyncio.sleep(_SAMPLE_S)
        finally:
            await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(sample()), name="census")
    thread.start()
    try:
        if not ready.wait(10):
            raise TimeoutError("the census could not connect")
        yield seen
    finally:
        stop.set()
        thread.join()
