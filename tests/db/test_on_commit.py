"""`Lease.on_commit`: behind the commit, never without it."""

from __future__ import annotations

import pytest

from b1.db import Database, Lease
from b1.errors import ConfigurationError


async def _fail(lease: Lease, calls: list[str]) -> None:
    async with lease.transaction():
        lease.on_commit(lambda: calls.append("undone"))
        raise ZeroDivisionError


async def test_it_runs_behind_the_outermost_commit_and_an_undone_savepoint_takes_its_own_back(
    database: Database,
) -> None:
    calls: list[str] = []
    async with database.acquire() as lease:
        with pytest.raises(ConfigurationError):
            lease.on_commit(lambda: None)
        async with lease.transaction():
            lease.on_commit(lambda: calls.append("outer"))
            with pytest.raises(ZeroDivisionError):
                await _fail(lease, calls)
            async with lease.transaction():
                lease.on_commit(lambda: calls.append("inner"))
            assert calls == []
        assert calls == ["outer", "inner"]
        with pytest.raises(ZeroDivisionError):
            await _fail(lease, calls)
        async with lease.transaction():
            lease.on_commit(lambda: calls.remove("never there"))
        assert calls == ["outer", "inner"]
