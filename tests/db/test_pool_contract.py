"""What asyncpg's own pool is tested for, asked of ours: the names of its `tests/test_pool.py` are in the docstrings."""

from __future__ import annotations

import asyncio

import pytest

from b1.db import Database
from b1.errors import DatabaseBusy, DatabaseUnavailable, LeaseHeld
from tests.db.conftest import MakeDatabase, until
from tests.servers import PostgresServer


async def _idle(database: Database, count: int) -> None:
    await until(lambda: database.snapshot().idle == count and database.snapshot().in_use == 0)


async def test_a_task_cancelled_while_it_waits_with_a_timeout_leaves_no_trace(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    """test_pool_handles_task_cancel_in_acquire_with_timeout"""
    database = make_database(postgres_url, connections=1)
    await database.start()

    async def worker() -> None:
        async with database.acquire(timeout_s=100) as lease:
            await lease.fetchval("select 1")

    for _ in range(20):
        async with database.acquire():
            task = asyncio.create_task(_without_lease(worker))
            await until(lambda: database.snapshot().waiting == 1)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert database.snapshot().waiting == 0
    assert await database.fetchval("select 2") == 2
    await _idle(database, 1)


async def test_a_task_cancelled_in_the_moment_it_is_served_gives_the_connection_back(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    """test_pool_handles_asyncio_cancel_in_acquire: the session is in the future, its waiter never runs."""
    database = make_database(postgres_url, connections=1)
    await database.start()
    for _ in range(20):
        async with database.acquire() as lease:
            task = asyncio.create_task(_without_lease(lambda: database.fetchval("select 1")))
            await until(lambda: database.snapshot().waiting == 1)
            lease.end()
            task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    await _idle(database, 1)
    assert database._pool.queue.held == 0


@pytest.mark.parametrize("turns", range(4))
async def test_a_task_cancelled_around_its_release_gives_the_connection_back(database: Database, turns: int) -> None:
    """test_pool_handles_task_cancel_in_release: a release does not wait here, so there is nothing to cancel in it."""
    answered = asyncio.Event()

    async def worker() -> None:
        async with database.acquire() as lease:
            await lease.execute("select 1")
            answered.set()
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    for _ in range(10):
        answered.clear()
        task = asyncio.create_task(worker())
        await answered.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    await _idle(database, 1)


async def test_a_query_cancelled_at_the_end_of_its_block_is_seen_off(database: Database) -> None:
    """test_pool_handles_query_cancel_in_release"""

    async def worker() -> None:
        async with database.acquire() as lease:
            await lease.execute("select pg_sleep(60)")

    await asyncio.gather(*(database.execute("select pg_sleep(0.05)") for _ in range(3)))
    await _idle(database, 3)
    for _ in range(5):
        task = asyncio.create_task(worker())
        await until(lambda: database.snapshot().holders)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await _idle(database, 3)
    assert (database.snapshot().counters.lost, database.snapshot().counters.cancels) == (0, 5)


async def test_a_release_inside_a_transaction_rolls_back(database: Database) -> None:
    """test_pool_release_in_xact"""
    await database.execute("create table item(id int)")
    async with database.acquire() as lease:
        transaction = lease.transaction()
        await transaction.__aenter__()
        await lease.execute("insert into item values (1)")
        lease.end()
        with pytest.raises(LeaseHeld, match="over"):
            await lease.execute("insert into item values (2)")
    await _idle(database, database.snapshot().idle or 1)
    assert await database.fetchval("select count(*) from item") == 0


async def test_a_connection_that_the_server_closes_is_forgotten_in_any_state(
    postgres: PostgresServer, database: Database
) -> None:
    """test_pool_remote_close"""
    for _ in range(3):
        async with database.acquire() as lease:
            await asyncio.to_thread(postgres.execute, f"select pg_terminate_backend({lease.pid}, 5000)")
    for _ in range(3):
        task = asyncio.create_task(database.execute("select pg_sleep(60)"))
        await until(lambda: database.snapshot().holders)
        pid = next(iter(database._pool.leases)).pid
        await asyncio.to_thread(postgres.execute, f"select pg_terminate_backend({pid}, 5000)")
        with pytest.raises(DatabaseUnavailable):
            await task
    assert await database.fetchval("select 1") == 1
    await _idle(database, 1)
    assert database.snapshot().away_since is None


async def test_closing_is_bounded_whatever_is_held(database: Database) -> None:
    """test_pool_close_timeout"""
    entered = asyncio.Event()

    async def worker() -> None:
        async with database.acquire():
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(worker())
    await entered.wait()
    await asyncio.wait_for(database.aclose(deadline_s=0.02), 30)
    task.cancel()
    await asyncio.wait({task})
    assert database.snapshot().in_use == 0


async def test_closing_while_connecting_and_twice_at_once(make_database: MakeDatabase, postgres_url: str) -> None:
    """test_pool_close_waits_for_release, test_pool_closed_under_concurrent_use"""
    for _ in range(5):
        database = make_database(postgres_url)
        await database.start()
        callers = [asyncio.create_task(database.fetchval("select 1")) for _ in range(9)]
        await asyncio.sleep(0)
        await asyncio.gather(database.aclose(), database.aclose())
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert {1 if outcome == 1 else type(outcome).__name__ for outcome in outcomes} <= {1, "NotRunning"}
        assert database.snapshot().in_use == 0


@pytest.mark.parametrize("lifetime_s", [0.0, 0.02])
async def test_unused_connections_expire_and_used_ones_do_not(
    make_database: MakeDatabase, postgres_url: str, lifetime_s: float
) -> None:
    """test_pool_expire_connections, test_pool_max_inactive_time_0x"""
    database = make_database(postgres_url, idle_lifetime_s=lifetime_s)
    await database.start()
    async with database.acquire() as lease:
        pid = lease.pid
        await lease.execute("select pg_sleep(0.1)")
        assert await lease.fetchval("select pg_backend_pid()") == pid
    await until(lambda: database.snapshot().idle == 0 and not database.snapshot().closing)
    assert await database.fetchval("select pg_backend_pid()") != pid


async def test_a_timeout_while_waiting_is_not_a_timeout_while_connected(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    """test_pool_acquire_timeout"""
    database = make_database(postgres_url, connections=1)
    await database.start()
    async with database.acquire():
        task = asyncio.create_task(_without_lease(lambda: database.fetchval("select 1", timeout_s=0.03)))
        with pytest.raises(DatabaseBusy):
            await task
    assert await database.fetchval("select 1", timeout_s=20) == 1


async def _without_lease(work: object) -> object:
    """Run as another request would, that inherited nobody's lease."""
    from b1.db.lease import _HELD

    _HELD.set(None)
    return await work()  # type: ignore[operator]
