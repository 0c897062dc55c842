"""The statements of an earlier version run on the present schema, and its rows are read by the present statements."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from b1.db import Database, DatabaseOptions
from b1.db.migrate import LIBRARY, LIBRARY_FOLDER, apply_migrations, read_migrations
from tests.previous import story

versions = pytest.mark.parametrize("version", story.VERSIONS)
PRESENT = story.statements()


async def _migrate(url: str, folder: Path, slots: Path) -> list[str]:
    database = Database(DatabaseOptions(url=url, slots_dir=slots, role="migrate"))
    await database.start()
    try:
        async with database.acquire() as lease:
            return await apply_migrations(lease, await asyncio.to_thread(read_migrations, folder, LIBRARY))
    finally:
        await database.aclose()


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _tell(connection: asyncpg.Connection[Any], statements: dict[str, Any], name: str) -> None:
    """Begin, find nothing, and commit the record, as a request does."""
    assert statements["UNKNOWN"] == await connection.execute(statements["BEGIN"][name])
    await connection.execute(statements["CONCLUDE"][name])


async def _find(connection: asyncpg.Connection[Any], statements: dict[str, Any], name: str) -> None:
    """Another request with the key learns that there is a record, and reads it."""
    assert statements["UNKNOWN"] != await connection.execute(statements["BEGIN"][name])
    row = await connection.fetchrow(statements["READ"], story.digest_of(name))
    assert row is not None
    assert (row["fingerprint"], row["record"]) == (b"print", b"record")
    assert 3500 < row["ttl_s"] <= 3600
    await connection.execute(statements["ROLLBACK"])
    assert await connection.fetchval(statements["PURGE"], 10) == 0


@versions
async def test_two_versions_work_on_the_present_schema(version: str, postgres_url: str, tmp_path: Path) -> None:
    earlier = json.loads((story.FOLDER / version / "queries.json").read_text())
    await _migrate(postgres_url, LIBRARY_FOLDER, tmp_path / "slots")
    async with _connected(postgres_url) as connection:
        await _tell(connection, earlier, "earlier")
        await _tell(connection, PRESENT, "later")
        for statements in (earlier, PRESENT):
            await _find(connection, statements, "earlier")
            await _find(connection, statements, "later")


@versions
async def test_rows_outlive_the_migration_and_the_earlier_version_works_on(
    version: str, postgres_url: str, tmp_path: Path
) -> None:
    folder = story.FOLDER / version
    earlier = json.loads((folder / "queries.json").read_text())
    applied = await _migrate(postgres_url, folder / "migrations", tmp_path / "slots")
    async with _connected(postgres_url) as connection:
        await _tell(connection, earlier, "before")
        later = await _migrate(postgres_url, LIBRARY_FOLDER, tmp_path / "slots")
        assert set(later).isdisjoint(applied)
        await _find(connection, PRESENT, "before")
        await _tell(connection, earlier, "after")
        await _find(connection, PRESENT, "after")


@versions
def test_applied_migrations_stay_as_they_were(version: str) -> None:
    for path in (story.FOLDER / version / "migrations").glob("*.sql"):
        assert (LIBRARY_FOLDER / path.name).read_text() == path.read_text()
