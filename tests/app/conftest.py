"""Pantry's schema and demo in a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

import app
import b1
from tests.app import client

MIGRATIONS = Path(app.__file__).parent / "migrations"
Connection = asyncpg.Connection


LIBRARY_MIGRATIONS = Path(b1.__file__).parent / "db" / "migrations"


async def migrate(connection: Connection) -> None:
    """Apply every migration in order, the library's first, as `b1 migrate` does."""
    for folder in (LIBRARY_MIGRATIONS, MIGRATIONS):
        for file in sorted(folder.glob("[0-9]*.sql")):
            await connection.execute(file.read_text())


@pytest.fixture
async def schema(postgres_url: str) -> AsyncIterator[Connection]:
    """A connection to an empty Pantry: the schema without the demo."""
    connection = await asyncpg.connect(postgres_url)
    try:
        await migrate(connection)
        yield connection
    finally:
        await connection.close(timeout=5)


@pytest.fixture
async def pantry(schema: Connection) -> Connection:
    """A connection to Pantry with the demo's tenants and people."""
    await schema.execute((MIGRATIONS / "demo.sql").read_text())
    return schema


@pytest.fixture
async def running(pantry: Connection, postgres_url: str) -> AsyncIterator[client.Pantry]:
    """Pantry itself, with the demo."""
    async with client.running(
        {"DATABASE_URL": postgres_url, "AUTH_JWT_SECRET": "a test secret of 32 characters!!"}
    ) as one:
        yield one
