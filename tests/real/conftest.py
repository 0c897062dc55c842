"""What a module of these tests shares: a database with the demo, and servers of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.server import migrate
from tests.servers import PostgresServer, RedisServer, Servers


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
