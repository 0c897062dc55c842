"""What a lease promises its holder, on a real Postgres."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from b1.clock import DEADLINE, SystemClock
from b1.db import Database, Lease, holds_lease
from b1.db.lease import _HELD
from b1.errors import DatabaseBusy, DatabaseUnavailable, DeadlineExceeded, LeaseHeld, NotRunning
from tests.db.conftest import MakeDatabase, until


@pytest.fixture
async def table(database: Database) -> Database:
    await database.execute("create table item(id int primary key)")
    return database


async def _insert(lease: Lease, *statements: str) -> None:
    async with lease.transaction():
        for statement in statements:
            await lease.execute(statement)


async def _ids(database: Database) -> list[int]:
    return [row["id"] for row in await database.fetch("select id from item order by id")]


async def test_each_kind_of_query_answers_as_asyncpg_does(table: Database) -> None:
    async with table.acquire() as lease:
        assert await lease.execute("insert into item values (1)") == "INSERT 0 1"
        await lease.executemany("insert into item values ($1)", [(2,), (3,)])
        assert [row["id"] for row in await lease.fetch("select id from item order by id")] == [1, 2, 3]
        assert await lease.fetchrow("select id from item where id = $1", 9) is None
        assert await lease.fetchval("select 1, 2", column=1) == 2
        assert lease.pid == await lease.fetchval("select pg_backend_pid()")


async def test_errors_of_sql_pass_untouched_and_the_lease_goes_on(table: Database) -> None:
    async with table.acquire() as lease:
        await lease.execute("insert into item values (1)")
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            await lease.execute("insert into item values (1)")
        assert caught.value.sqlstate == "23505"
        with pytest.raises(asyncpg.DataError):
            await lease.fetchval("select $1::int", "no number")
        assert await lease.fetchval("select count(*) from item") == 1


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_an_error(table: Database) -> None:
    async with table.acquire() as lease:
        async with lease.transaction():
            await lease.execute("insert into item values (1)")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await _insert(lease, "insert into item values (2)", "select 1/0")
    assert await _ids(table) == [1]


async def test_an_inner_transaction_is_a_savepoint(table: Database) -> None:
    async with table.acquire() as lease, lease.transaction():
        await lease.execute("insert into item values (1)")
        with pytest.raises(asyncpg.UniqueViolationError):
            await _insert(lease, "insert into item values (2)", "insert into item values (1)")
        async with lease.transaction():
            await lease.execute("insert into item values (3)")
    assert await _ids(table) == [1, 3]


async def test_isolation_and_read_only_are_passed_on(table: Database) -> None:
    async with table.acquire() as lease, lease.transaction(isolation="serializable", readonly=True):
        assert await lease.fetchval("show transaction_isolation") == "serializable"
        assert await lease.fetchval("show transaction_read_only") == "on"


async def test_a_commit_that_committed_nothing_is_an_error(table: Database) -> None:
    async def swallow(lease: Lease) -> None:
        async with lease.transaction():
            await lease.execute("insert into item values (1)")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await lease.execute("select 1/0")

    async with table.acquire() as lease:
        with pytest.raises(asyncpg.InFailedSQLTransactionError, match="nothing was committed"):
            await swallow(lease)
    assert await _ids(table) == []


async def test_a_lease_that_ends_in_a_transaction_is_rolled_back(table: Database) -> None:
    async with table.acquire() as lease:
        pid = lease.pid
        await lease.execute("begin")
        await lease.execute("insert into item values (1)")
    await until(lambda: table.snapshot().idle == 1)
    async with table.acquire() as lease:
        assert lease.pid == pid
        assert await lease.fetchval("select count(*) from item") == 0


async def test_settings_of_one_lease_are_not_seen_by_the_next(database: Database) -> None:
    async with database.acquire() as lease:
        pid = lease.pid
        await lease.execute("set work_mem = '3MB'")
        await lease.execute("listen something")
    await until(lambda: database.snapshot().idle == 1)
    async with database.acquire() as lease:
        assert lease.pid == pid
        assert await lease.fetchval("show work_mem") != "3MB"
        assert await lease.fetchval("select count(*) from pg_listening_channels()") == 0
        assert await lease.fetchval("show jit") == "off"  # what we set at the start outlives a reset


async def test_sessions_start_with_the_settings_of_the_options(make_database: MakeDatabase, postgres_url: str) -> None:
    database = make_database(postgres_url, role="jobs", statement_timeout_s=7, lock_timeout_s=2)
    await database.start()
    rows = {
        row["name"]: row["setting"]
        for row in await database.fetch(
            "select name, setting from pg_settings where name = any($1)",
            ["application_name", "statement_timeout", "lock_timeout", "client_connection_check_interval", "jit",
             "idle_in_transaction_session_timeout"],
        )
    }  # fmt: skip
    assert rows.pop("application_name").startswith("b1:jobs:")
    assert rows == {
        "statement_timeout": "7000",
        "lock_timeout": "2000",
        "client_connection_check_interval": "200",
        "idle_in_transaction_session_timeout": "10000",
        "jit": "off",
    }


async def test_a_task_that_holds_a_lease_gets_no_second_one(database: Database) -> None:
    async with database.acquire():
        assert holds_lease()
        with pytest.raises(LeaseHeld):
            await database.fetchval("select 1")
        with pytest.raises(LeaseHeld):
            async with database.acquire(priority="critical"):
                pass
    assert not holds_lease()
    assert await database.fetchval("select 1") == 1


async def test_a_child_that_the_holder_waits_for_gets_no_second_lease(database: Database) -> None:
    async with database.acquire():
        outcomes = await asyncio.gather(*(database.fetchval("select 1") for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LeaseHeld] * 3


async def test_a_task_started_inside_a_block_may_acquire_once_the_block_has_ended(database: Database) -> None:
    ended = asyncio.Event()

    async def later() -> int:
        assert holds_lease()
        await ended.wait()
        assert not holds_lease()
        return int(await database.fetchval("select 5"))

    async with database.acquire():
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    ended.set()
    assert await task == 5


async def test_two_tasks_cannot_use_one_lease_at_the_same_time(database: Database) -> None:
    async with database.acquire() as lease:
        outcomes = await asyncio.gather(
            lease.fetchval("select 1 from pg_sleep(0.05)"), lease.fetchval("select 2"), return_exceptions=True
        )
        assert outcomes[0] == 1 and isinstance(outcomes[1], LeaseHeld)
        assert await lease.fetchval("select 3") == 3


async def test_a_block_that_ends_while_a_child_queries_interrupts_the_child(database: Database) -> None:
    async with database.acquire() as lease:
        child = asyncio.create_task(lease.execute("select pg_sleep(60)"))
        await asyncio.sleep(0.02)
    with pytest.raises(LeaseHeld, match="ended"):
        await child
    assert await database.fetchval("select 1") == 1


async def test_a_lease_is_over_after_its_block_and_after_an_abandoned_query(database: Database) -> None:
    async with database.acquire() as lease:
        pass
    with pytest.raises(LeaseHeld, match="over"):
        await lease.fetchval("select 1")
    async with database.acquire() as lease:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(lease.execute("select pg_sleep(60)"), 0.05)
        assert not lease.is_open
        with pytest.raises(LeaseHeld, match="over"):
            await lease.fetchval("select 1")
        assert await database.fetchval("select 2") == 2  # holds nothing any more


async def test_an_abandoned_transaction_is_rolled_back(table: Database) -> None:
    async def work() -> None:
        async with table.acquire() as lease, lease.transaction():
            await lease.execute("insert into item values (1)")
            await lease.execute("select pg_sleep(60)")

    task = asyncio.create_task(work())
    await until(lambda: table.snapshot().holders)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _ids(table) == []
    await table.execute("insert into item values (1)")


async def test_cancellation_between_two_queries_rolls_back_too(table: Database) -> None:
    inserted = asyncio.Event()

    async def work() -> None:
        async with table.acquire() as lease, lease.transaction():
            await lease.execute("insert into item values (1)")
            inserted.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await inserted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _ids(table) == []


async def test_the_snapshot_names_the_holders(database: Database) -> None:
    async with database.acquire(priority="critical") as lease:
        task = asyncio.current_task()
        assert task is not None
        (holder,) = database.snapshot().holders
        assert (holder.task, holder.priority) == (task.get_name(), "critical")
        assert holder.held_s <= lease.held_s
        assert "critical open" in repr(lease)
    assert database.snapshot().holders == ()


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, connections=1, queue_limit=2)
    await database.start()
    async with database.acquire():
        waiting = [asyncio.create_task(_detached(database)) for _ in range(2)]
        await until(lambda: database.snapshot().waiting == 2)
        third = asyncio.create_task(_detached(database))
        with pytest.raises(DatabaseBusy) as caught:
            await third
        assert caught.value.retry_after is not None
        critical = asyncio.create_task(_detached(database, "critical"))
        await until(lambda: database.snapshot().waiting == 3)
    assert await asyncio.gather(*waiting, critical) == [1, 1, 1]
    assert database.snapshot().counters.refused == 1


async def test_a_wait_ends_at_its_timeout_or_at_the_deadline_of_the_request(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, connections=1)
    await database.start()

    async def request(limit_s: float) -> None:
        DEADLINE.set(SystemClock().monotonic() + limit_s)
        await _detached(database)

    async with database.acquire():
        for wait in (_detached(database, timeout_s=0.05), request(0.05), request(-1)):
            with pytest.raises(DatabaseBusy):
                await asyncio.create_task(wait)
    assert database.snapshot().counters.timeouts == 3


async def test_a_timeout_covers_the_query_too(database: Database) -> None:
    with pytest.raises(DeadlineExceeded):
        await database.execute("select pg_sleep(60)", timeout_s=0.1)


async def test_a_statement_too_slow_for_the_server_is_out_of_time(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, statement_timeout_s=0.05)
    await database.start()
    with pytest.raises(DeadlineExceeded):
        await database.execute("select pg_sleep(60)")
    assert database.snapshot().idle == 1


async def test_background_work_has_one_place_and_waits_for_web(make_database: MakeDatabase, postgres_url: str) -> None:
    database = make_database(postgres_url, connections=2, background_wait_s=60)
    await database.start()
    order: list[str] = []
    all_have_asked = asyncio.Event()

    async def one(name: str, priority: str) -> None:
        async with database.acquire(priority=priority) as lease:  # type: ignore[arg-type]
            order.append(name)
            await all_have_asked.wait()
            await lease.execute("select pg_sleep(0.01)")

    first = asyncio.create_task(one("b1", "background"))
    await until(lambda: order == ["b1"])
    second = asyncio.create_task(one("b2", "background"))
    await until(lambda: database.snapshot().waiting == 1)
    web = [asyncio.create_task(one(f"w{n}", "web")) for n in range(6)]
    await until(lambda: len(order) == 2 and database.snapshot().waiting == 6)
    all_have_asked.set()
    await asyncio.gather(first, second, *web)
    assert order[0] == "b1" and order[-1] == "b2"


async def test_background_work_has_one_place_on_the_whole_host(make_database: MakeDatabase, postgres_url: str) -> None:
    here, there = make_database(postgres_url), make_database(postgres_url)
    await here.start()
    await there.start()
    async with here.acquire(priority="background"):
        second = asyncio.create_task(_detached(there, "background"))
        await until(lambda: there.snapshot().waiting == 1)
        assert await asyncio.create_task(_detached(there, "web")) == 1
    assert await second == 1


async def test_starved_background_work_gets_its_turn(make_database: MakeDatabase, postgres_url: str) -> None:
    database = make_database(postgres_url, connections=1, background_wait_s=0.1)
    await database.start()
    stop = asyncio.Event()

    async def flood() -> None:
        while not stop.is_set():
            await database.execute("select pg_sleep(0.005)")

    floods = [asyncio.create_task(flood()) for _ in range(5)]
    await until(lambda: database.snapshot().waiting >= 3)
    assert await asyncio.wait_for(_detached(database, "background"), 10) == 1
    stop.set()
    await asyncio.gather(*floods)


async def test_nothing_is_served_before_the_start_and_after_the_end(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url)
    with pytest.raises(NotRunning):
        await database.fetchval("select 1")
    await database.start()
    assert await database.fetchval("select 1") == 1
    await database.aclose()
    with pytest.raises(NotRunning):
        await database.fetchval("select 1")
    await database.aclose()


async def test_closing_waits_for_open_leases_and_refuses_waiters(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, connections=1)
    await database.start()
    finished = []

    async def work() -> None:
        async with database.acquire() as lease:
            await lease.execute("select pg_sleep(0.1)")
            finished.append(True)

    holder = asyncio.create_task(work())
    await until(lambda: database.snapshot().holders)
    waiter = asyncio.create_task(_detached(database))
    await until(lambda: database.snapshot().waiting == 1)
    await database.aclose()
    assert finished == [True]
    await holder
    with pytest.raises(NotRunning):
        await waiter


async def test_closing_ends_what_does_not_end_by_its_deadline(database: Database) -> None:
    holder = asyncio.create_task(database.execute("select pg_sleep(60)"))
    await until(lambda: database.snapshot().holders)
    await database.aclose(deadline_s=0.05)
    with pytest.raises(DatabaseUnavailable):
        await holder


async def _detached(database: Database, priority: str = "web", timeout_s: float | None = None) -> int:
    """Query as another request would: from a task that inherited nobody's lease."""
    _HELD.set(None)
    return int(await database.fetchval("select 1", priority=priority, timeout_s=timeout_s))  # type: ignore[arg-type]
