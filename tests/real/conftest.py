"""What a module of these tests shares: a database with the demo, and no variables of whoever runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from b1.settings import known_names
from tests.real.server import migrate
from tests.servers import PostgresServer, RedisServer, Servers


@pytest.fixture(scope="module", autouse=True)
def clean_module_environment() -> Iterator[None]:
    """Do for servers that outlive a test what `clean_environment` does for the others."""
    known = {name for base in known_names() for name in (base, f"{base}_FILE")}
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in known or name.startswith(("B1_", "PG", "GUNICORN_", "WEBSITE_", "WEB_CONCURRENCY")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def pantry_url(postgres: PostgresServer) -> Iterator[str]:
    """A database with Pantry's schema and demo."""
    with postgres.database() as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def module_postgres(servers: Servers) -> Iterator[PostgresServer]:
    """A Postgres of the module's own, to count, stop and freeze, with the demo in its default database."""
    server = servers.postgres()
    migrate(server.url)
    yield server
    servers.discard(server)


@pytest.fixture(scope="module")
def module_redis(servers: Servers) -> Iterator[RedisServer]:
    """A Redis of the module's own."""
    server = servers.redis()
    yield server
    servers.discard(server)
