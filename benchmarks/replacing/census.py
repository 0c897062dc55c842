"""Counts our clients at Postgres and Redis themselves every 20 ms, and what the server's tree holds four times a second."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg

EVERY_S = 0.02
MEMORY_EVERY_S = 0.25
_BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


@dataclass(slots=True)
class Seen:
    """The highest numbers, without our own connections."""

    postgres: int = 0
    redis: int = 0
    samples: int = 0
    pss_bytes: int = 0
    idle_pss_bytes: int = 0


@contextmanager
def census(postgres_url: str | None, redis_url: str | None, pss_bytes: Callable[[], int]) -> Iterator[Seen]:
    """Count while the block runs."""
    seen = Seen(idle_pss_bytes=pss_bytes())
    over = threading.Event()
    threads = [threading.Thread(target=_weigh, args=(seen, pss_bytes, over), name="memory")]
    ready = threading.Event()
    if postgres_url and redis_url:
        work = lambda: asyncio.run(_count(seen, postgres_url, redis_url, ready, over))  # noqa: E731
        threads.append(threading.Thread(target=work, name="census"))
    for thread in threads:
        thread.start()
    try:
        if len(threads) > 1 and not ready.wait(15):
            raise TimeoutError("the census could not connect")
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _weigh(seen: Seen, pss_bytes: Callable[[], int], over: threading.Event) -> None:
    while not over.wait(MEMORY_EVERY_S):
        seen.pss_bytes = max(seen.pss_bytes, pss_bytes())


async def _count(seen: Seen, postgres_url: str, redis_url: str, ready: threading.Event, over: threading.Event) -> None:
    connection = await asyncpg.connect(postgres_url)
    where = urlsplit(redis_url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while not over.is_set():
            seen.postgres = max(seen.postgres, await connection.fetchval(_BACKENDS))
            writer.write(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n")
            listed = await reader.readexactly(int((await reader.readline())[1:]) + 2)
            seen.redis = max(seen.redis, len(listed.splitlines()) - 2)  # ours, and the empty line at the end
            seen.samples += 1
            ready.set()
            await asyncio.sleep(EVERY_S)
    finally:
        writer.close()
        await connection.close()
