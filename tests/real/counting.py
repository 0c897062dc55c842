"""Many callers at once, and how many connections the servers see meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg

from tests.db.census import Census
from tests.real.client import Answer
from tests.servers import PostgresServer, RedisServer

T = TypeVar("T")
SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(%'"
ENOUGH_SAMPLES = 20
_SAMPLE_S = 0.003


def at_once(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda one: one(), calls))


def statuses(answers: Sequence[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def assert_within(seen: Census, most: int = 3) -> None:
    assert seen.samples >= ENOUGH_SAMPLES, "the census slept"
    assert 1 <= seen.highest <= most, f"{seen.highest} backends were seen"


@contextmanager
def onlooker(server: PostgresServer) -> Iterator[Callable[[], int]]:
    """Yield a function that counts the queries that sleep now, over one connection made beforehand.

    A connection that begins has no user yet in pg_stat_activity: one made for each look would be counted as ours.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="onlooker")
    thread.start()

    def wait_for(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    try:
        connection = wait_for(_connected(server.admin_url))
        try:
            yield lambda: wait_for(connection.fetchval(SLEEPING))
        finally:
            wait_for(connection.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _connected(url: str) -> Any:
    return await asyncpg.connect(url)


class Clients:
    """What was seen so far; our own connection is not counted."""

    def __init__(self) -> None:
        self.highest = 0
        self.latest = 0
        self.samples = 0


@contextmanager
def clients(server: RedisServer) -> Iterator[Clients]:
    """Sample CLIENT LIST every few milliseconds while the block runs."""
    seen = Clients()
    ready, stop = threading.Event(), threading.Event()

    def sample() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            reader = connection.makefile("rb")
            while not stop.wait(_SAMPLE_S):
                connection.sendall(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n")
                listed = reader.read(int(reader.readline()[1:]) + 2)
                seen.latest = len(listed.splitlines()) - 2  # ours, and the empty line at the end
                seen.highest = max(seen.highest, seen.latest)
                seen.samples += 1
                ready.set()

    thread = threading.Thread(target=sample, name="clients")
    thread.start()
    try:
        if not ready.wait(10):
            raise TimeoutError("Redis does not answer CLIENT LIST")
        yield seen
    finally:
        stop.set()
        thread.join()
