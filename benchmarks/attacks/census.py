"""Counts b1's connections at the servers themselves, every 20 ms, in a thread that no busy loop disturbs.

A backend is ours by its application_name, and a client of Redis by not being the one that counts.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from measuring.processes import HERE, Cores, clean_environment, running_redis

from b1.embedded.postgres import EmbeddedPostgres

EVERY_S = 0.02
_BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
_CLIENT_LIST = b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n"


@dataclass(slots=True)
class Census:
    """The highest counts so far; start over with `reset`."""

    environment: dict[str, str]
    highest: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)

    def note(self, server: str, count: int) -> None:
        """Take one sample."""
        self.highest[server] = max(self.highest.get(server, 0), count)
        self.samples[server] = self.samples.get(server, 0) + 1

    def reset(self) -> None:
        """Forget what was seen."""
        self.highest, self.samples = {}, {}

    def __str__(self) -> str:
        return ", ".join(
            f"{name} at most {count} in {self.samples[name]} looks" for name, count in self.highest.items()
        )


@contextmanager
def counted_stores() -> Iterator[Census]:
    """Run a migrated Postgres and a Redis, and count their clients until the block ends."""
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, running_redis(Cores.of_this_process()) as redis:
        postgres = EmbeddedPostgres(Path(folder), say=lambda _: None)
        environment = {"DATABASE_URL": postgres.start(), "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0"}
        try:
            migrate = [sys.executable, "-m", "b1", "migrate", "--quiet"]
            subprocess.run(
                migrate, cwd=HERE.parent, env=clean_environment(environment), check=True, capture_output=True
            )
            census = Census(environment)
            with (
                _beside(lambda over: _count_backends(census, over)),
                _beside(lambda over: _count_clients(census, redis.port, over)),
            ):
                yield census
        finally:
            postgres.stop()


@contextmanager
def _beside(count: Callable[[threading.Event], None]) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=count, args=(over,), name="census")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _count_backends(census: Census, over: threading.Event) -> None:
    async def count() -> None:
        connection = await asyncpg.connect(census.environment["DATABASE_URL"])
        try:
            while not over.is_set():
                census.note("postgres", await connection.fetchval(_BACKENDS))
                await asyncio.sleep(EVERY_S)
        finally:
            await connection.close()

    asyncio.run(count())


def _count_clients(census: Census, port: int, over: threading.Event) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        reader = connection.makefile("rb")
        while not over.is_set():
            connection.sendall(_CLIENT_LIST)
            listed = reader.read(int(reader.readline()[1:]) + 2)
            census.note("redis", len(listed.splitlines()) - 2)  # our own line, and the empty one at the end
            time.sleep(EVERY_S)
