"""Databases for tests of idempotency."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from b1.db import Database
from tests.idempotency.harness import database_at


@pytest.fixture
async def database(postgres_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with database_at(postgres_url, tmp_path / "slots") as one:
        yield one


@pytest.fixture
async def other_database(postgres_url: str, database: Database, tmp_path: Path) -> AsyncIterator[Database]:
    """The same database, as another process sees it."""
    async with database_at(postgres_url, tmp_path / "other-slots") as one:
        yield one
