"""Pantry under its production command, with a Postgres and a Redis that may be stopped, and nothing left at the end."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.server.running import ROOT, Running, wait_for
from tests.servers import PostgresServer, RedisServer, Servers

SECRET = "a secret of the benchmark, good for nothing else"
DOOMED = "tests.real.doomed:app"
USERS = ("user@example.com", "manager@example.com", "enterprise@example.com")
PASSWORD = "changeme"


@dataclass(slots=True)
class World:
    """Everything that an accident may hit.

    Attributes:
        folder: where `tests.real.doomed` looks for its orders.
        redis: None: the worker has its memory alone.
    """

    postgres: PostgresServer
    redis: RedisServer | None
    server: Running
    folder: Path

    def is_live(self) -> bool:
        """Tell whether the server answers."""
        try:
            return self.server.status("/live") == 200
        except (OSError, ValueError):
            return False

    def wait_for_another(self, gone: int) -> None:
        """Wait until the worker `gone` is gone and another one answers."""
        wait_for(lambda: gone not in self.server.workers() and self.is_live())

    def tokens(self) -> list[str]:
        """Log the users of the demo in."""
        return [_log_in(self.server.port, email) for email in USERS]


@contextmanager
def world(*, with_redis: bool = True) -> Iterator[World]:
    """Start everything; it ends with the block."""
    servers = Servers()
    try:
        postgres = servers.postgres()
        redis = servers.redis() if with_redis else None
        _migrate(postgres.url)
        with tempfile.TemporaryDirectory(prefix="b1-bench-") as name:
            folder = Path(name)
            variables = {
                "DATABASE_URL": postgres.url, "AUTH_JWT_SECRET": SECRET, "B1_LIMIT_SCALE": "1000",
                "ENABLE_RATE_LIMITING": "1", "LOG_LEVEL": "warning", "DOOMED_FOLDER": name,
            }  # fmt: skip
            if redis is not None:
                variables["REDIS_URL"] = redis.url
            with Running(folder, command=("-m", "b1", "run", DOOMED), **variables) as server:
                server.wait_ready()
                yield World(postgres, redis, server, folder)
    finally:
        servers.close()


def _migrate(url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "b1", "migrate"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DATABASE_URL": url, "B1_DEMO": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )


def _log_in(port: int, email: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = json.dumps({"email": email, "password": PASSWORD})
        connection.request("POST", "/auth/login", body, {"Content-Type": "application/json"})
        return str(json.loads(connection.getresponse().read())["accessToken"])
    finally:
        connection.close()
