"""Databases for tests of idempotency."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from b1.db import Database
from tests.idempotency.harness import database_at


@pytest.fixture(autouse=True)
def slot_files(blockbuster: BlockBuster) -> None:
    """Let the host's slots use their files, which lie in memory; until `tests/blocking.py` says so for everybody."""
    for watched in blockbuster.functions.values():
        watched.can_block_in("b1/slots.py", {"_close", "_lock", "_make_private", "_open", "_try_lock", "_write", "open"})


@pytest.fixture
async def database(postgres_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with database_at(postgres_url, tmp_path / "slots") as one:
        yield one


@pytest.fixture
async def other_database(postgres_url: str, database: Database, tmp_path: Path) -> AsyncIterator[Database]:
    """The same database, as another process sees it."""
    async with database_at(postgres_url, tmp_path / "other-slots") as one:
        yield one
