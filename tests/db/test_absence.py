"""Postgres stops, starts, freezes, ends single connections; everybody gets an answer in time and all heals by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import psutil
import pytest

from b1.clock import DEADLINE, SystemClock
from b1.db import Database
from b1.errors import DatabaseBusy, DatabaseUnavailable, DeadlineExceeded
from tests.db.census import census
from tests.db.conftest import MakeDatabase, Neighbour, until
from tests.servers import PostgresServer

pytestmark = pytest.mark.real


@pytest.fixture
def server(own_postgres: Callable[[], PostgresServer]) -> PostgresServer:
    return own_postgres()


@pytest.fixture
async def its_database(make_database: MakeDatabase, server: PostgresServer) -> AsyncIterator[Database]:
    one = make_database(server.url)
    await one.start()
    await until(lambda: one.snapshot().idle)
    yield one
    server.start()


async def test_the_start_does_not_need_postgres_and_finds_it_later(
    make_database: MakeDatabase, server: PostgresServer
) -> None:
    server.stop()
    database = make_database(server.url)
    await database.start()
    await until(lambda: database.snapshot().away_since is not None)
    assert "away" in repr(database)
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.fetchval("select 1")
    assert caught.value.retry_after
    server.start()
    await until(lambda: database.snapshot().connected)
    assert await database.fetchval("select 1") == 1
    assert database.snapshot().away_s == 0


async def test_a_stop_in_mid_use_is_told_to_everybody_and_heals(server: PostgresServer, its_database: Database) -> None:
    database = its_database
    callers = [asyncio.create_task(database.execute("select pg_sleep(30)")) for _ in range(10)]
    await until(lambda: len(database.snapshot().holders) == 3)
    await asyncio.to_thread(server.stop)
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 25)
    assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
    await until(lambda: database.snapshot().away_since is not None)
    await asyncio.to_thread(server.start)
    with census(server) as seen:
        await until(lambda: database.snapshot().connected)
        await asyncio.gather(*(database.execute("select pg_sleep(0.01)") for _ in range(30)))
    assert seen.highest <= 3


async def test_a_crash_heals_too(server: PostgresServer, its_database: Database) -> None:
    database = its_database
    caller = asyncio.create_task(database.execute("select pg_sleep(30)"))
    await until(lambda: database.snapshot().in_use == 1)
    await asyncio.to_thread(server.abandon)
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(caller, 25)
    await asyncio.to_thread(server.start)
    await until(lambda: database.snapshot().connected)
    assert await database.fetchval("select 1") == 1


async def test_one_ended_connection_is_replaced(server: PostgresServer, its_database: Database) -> None:
    database = its_database
    async with database.acquire() as lease:
        await asyncio.to_thread(server.execute, f"select pg_terminate_backend({lease.pid}, 5000)")
        with pytest.raises(DatabaseUnavailable):
            await lease.fetchval("select 1")
    assert await database.fetchval("select 2") == 2
    now = database.snapshot()
    assert (now.counters.lost, now.counters.opened, now.away_since) == (1, 2, None)


async def test_an_idle_connection_that_ended_is_never_given_to_a_caller(
    server: PostgresServer, its_database: Database
) -> None:
    database = its_database
    pid = await database.fetchval("select pg_backend_pid()")
    await asyncio.to_thread(server.execute, f"select pg_terminate_backend({pid}, 5000)")
    await until(lambda: database.snapshot().counters.lost == 1)
    assert await database.fetchval("select 2") == 2


async def test_a_doubt_ends_with_an_answer_on_a_connection_we_have(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, connections=1)
    await database.start()
    assert await database.fetchval("select 1") == 1
    database._pool.errands.suspect()  # as after a query that nobody answered; no slot is free for another connection
    with pytest.raises(DatabaseUnavailable):
        await database.fetchval("select 1")
    await until(lambda: database.snapshot().connected)
    assert await database.fetchval("select 1") == 1
    assert database.snapshot().counters.opened == 1


async def test_a_frozen_server_costs_each_caller_its_deadline_and_no_more(
    server: PostgresServer, its_database: Database
) -> None:
    database = its_database
    await asyncio.gather(*(database.execute("select pg_sleep(0.05)") for _ in range(3)))

    async def request() -> Any:
        DEADLINE.set(SystemClock().monotonic() + 0.3)
        return await database.fetchval("select 1")

    await asyncio.to_thread(_signal, server.suspend)
    try:
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(asyncio.create_task(request()) for _ in range(20)), return_exceptions=True), 10
        )
    finally:
        await asyncio.to_thread(_signal, server.resume)
    assert {type(outcome) for outcome in outcomes} <= {DeadlineExceeded, DatabaseBusy, DatabaseUnavailable}
    with census(server) as seen:
        await until(lambda: database.snapshot().connected)
        await asyncio.gather(*(database.execute("select pg_sleep(0.01)") for _ in range(30)))
    assert seen.highest <= 3


@pytest.mark.parametrize("spelling", ["", "?sslmode=disable"])
async def test_a_long_freeze_leaves_no_crowd_behind(
    make_database: MakeDatabase, server: PostgresServer, spelling: str
) -> None:
    database = make_database(server.url + spelling, connect_timeout_s=0.2, statement_timeout_s=0.2, answer_grace_s=0.1)
    await database.start()
    await asyncio.gather(*(database.execute("select pg_sleep(0.05)") for _ in range(3)))
    with census(server) as seen:
        await asyncio.to_thread(_signal, server.suspend)
        try:
            ended = time.monotonic() + 6.5
            while time.monotonic() < ended:
                outcomes = await asyncio.gather(
                    *(database.fetchval("select 1", timeout_s=0.2) for _ in range(10)), return_exceptions=True
                )
                assert all(isinstance(outcome, Exception) for outcome in outcomes)
                await asyncio.sleep(0.01)
            assert database.snapshot().away_since is not None
        finally:
            await asyncio.to_thread(_signal, server.resume)
        await until(lambda: database.snapshot().connected)
        for _ in range(20):
            await asyncio.gather(*(database.execute("select pg_sleep(0.01)") for _ in range(6)), return_exceptions=True)
    assert seen.highest <= 3
    assert await database.fetchval("select 1") == 1


async def test_a_freeze_does_not_count_as_rest(
    make_database: MakeDatabase, server: PostgresServer, neighbours: Callable[..., Neighbour]
) -> None:
    neighbour = neighbours(server.url, "asyncio", "hold", *["select pg_sleep(60)"] * 3)
    for _ in range(3):
        await neighbour.next_event()
    newcomer = make_database(server.url)
    with census(server) as seen:
        neighbour.kill()
        await newcomer.start()
        waiting = asyncio.gather(*(newcomer.execute("select pg_sleep(0.05)", timeout_s=10) for _ in range(9)))
        await until(lambda: newcomer.snapshot().resting)
        await asyncio.sleep(0.03)
        await asyncio.to_thread(_signal, server.suspend)
        await asyncio.sleep(1)
        await asyncio.to_thread(_signal, server.resume)
        await waiting
    assert seen.highest <= 3


async def test_a_wrong_password_is_reported_as_away_and_never_shown(
    make_database: MakeDatabase, server: PostgresServer
) -> None:
    database = make_database(server.url.replace("b1@", "nobody:hunter2@"))
    await database.start()
    await until(lambda: database.snapshot().away_since is not None)
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.fetchval("select 1")
    assert "hunter2" not in repr(caught.value) + repr(database) + repr(database.snapshot())
    assert issubclass(getattr(asyncpg, database.snapshot().away_reason), asyncpg.PostgresError)


def _signal(family: Callable[[], None]) -> None:
    """Suspend or resume the whole server, though backends end while it is done."""
    while True:
        try:
            family()
        except psutil.NoSuchProcess:
            continue
        return
