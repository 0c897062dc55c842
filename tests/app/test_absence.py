"""Postgres goes away under a running Pantry, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from tests.app import client
from tests.app.client import Member
from tests.app.conftest import MIGRATIONS, migrate
from tests.servers import PostgresServer


async def until_served(member: Member) -> int:
    """Ask again as the 503 says, for ten seconds; return the last status."""
    status = 0
    for _ in range(100):
        status = (await member.spend()).status_code
        if status != 503:
            break
        await asyncio.sleep(0.1)
    return status


@pytest.mark.real
async def test_without_postgres_writes_are_told_when_to_come_back_and_cached_reads_go_on(
    own_postgres: Callable[[], PostgresServer],
) -> None:
    server = own_postgres()
    connection = await asyncpg.connect(server.url)
    await migrate(connection)
    await connection.execute((MIGRATIONS / "demo.sql").read_text())
    await connection.close()

    async with client.running({"DATABASE_URL": server.url}) as running:
        member = await running.member()
        await member.get("/v1/finance/summary")
        server.stop()
        cached = await member.get("/v1/finance/summary")
        away = [await member.spend(), await member.get("/v1/finance/balance"), await running.log_in()]
        server.start()
        back = await until_served(member)

    assert cached.status_code == 200
    assert [answer.status_code for answer in away] == [503, 503, 503]
    assert all("retry-after" in answer.headers for answer in away)
    assert back == 201
