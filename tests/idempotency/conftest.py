"""Databases for tests of idempotency."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from b1.db import Database
from tests.idempotency.harness import database_at, empty
from tests.idempotency.modes import MODES, Mode, opened
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def shared_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """One database for a module's many small tests, since to make one takes longer than most of them."""
    with postgres.database() as url:
        yield url


@pytest.fixture
async def database(shared_postgres_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """The module's database, with empty tables."""
    async with database_at(shared_postgres_url, tmp_path / "slots") as one:
        await empty(one)
        yield one


@pytest.fixture
async def other_database(shared_postgres_url: str, database: Database, tmp_path: Path) -> AsyncIterator[Database]:
    """The same database, as another process sees it."""
    async with database_at(shared_postgres_url, tmp_path / "other-slots") as one:
        yield one


@pytest.fixture(params=MODES)
async def mode(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mode]:
    """Each way in which an outcome is kept, in turn."""
    redis = request.getfixturevalue("redis_server") if request.param == "redis" else None
    database: Database | None = None
    async with AsyncExitStack() as stack:
        if request.param == "transactional":
            url = request.getfixturevalue("shared_postgres_url")
            database = await stack.enter_async_context(database_at(url, tmp_path / "slots"))
            await empty(database)
        yield await stack.enter_async_context(opened(request.param, database, redis, tmp_path / "redis-slots"))
