"""The queue on a real Postgres: three connections, hundreds of callers; classes, tenants, deadlines, nothing leaks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from b1.clock import DEADLINE, SystemClock
from b1.db import Database, Lease, Priority
from b1.errors import DatabaseBusy, DeadlineExceeded, LeaseHeld
from tests.db.census import census
from tests.db.conftest import MakeDatabase, until
from tests.servers import PostgresServer


async def _at_rest(database: Database) -> None:
    """Wait until nobody holds, wants, opens or closes anything, and check that all accounts are even.

    What the last caller wanted may still be opened when it has gone; it stays, idle.
    """
    await until(lambda: (now := database.snapshot()).in_use == now.opening == 0 and not now.closing)
    now = database.snapshot()
    assert (now.waiting, now.holders) == (0, ())
    assert database._pool.queue.held == 0
    assert not database._pool.errands.leaving


async def _filled(database: Database, connections: int = 3) -> list[Lease]:
    """Take every connection, each from a task of its own that has ended, so that nobody here holds a lease."""

    async def take() -> Lease:
        return await database.acquire(tenant="holder").__aenter__()

    return [await asyncio.create_task(take()) for _ in range(connections)]


async def _teach(database: Database, query: str, times: int) -> None:
    for _ in range(times):
        await database.execute(query)


async def test_three_hundred_callers_of_thirty_tenants_share_three_connections(
    make_database: MakeDatabase, postgres: PostgresServer, postgres_url: str
) -> None:
    database = make_database(postgres_url, queue_limit=400)
    await database.start()
    order: list[str] = []

    async def request(tenant: str) -> None:
        async with database.acquire(tenant=tenant, timeout_s=60) as lease:
            order.append(tenant)
            await lease.execute("select pg_sleep(0.002)")

    with census(postgres) as seen:
        held = await _filled(database)
        flood = [asyncio.create_task(request("flood")) for _ in range(155)]
        await until(lambda: database.snapshot().waiting == 155)
        others = [asyncio.create_task(request(f"tenant {n % 29}")) for n in range(145)]
        await until(lambda: database.snapshot().waiting == 300)
        for lease in held:
            lease.end()
        await asyncio.gather(*flood, *others)
    assert seen.highest <= 3
    assert len(order) == 300
    assert len(set(order[:30])) == 30  # everybody once, before anybody twice
    assert Counter(order[:150])["flood"] < 75  # its share is 5; one slow moment of the machine is charged to a tenant
    await _at_rest(database)


async def test_a_flood_of_one_tenant_does_not_keep_another_waiting(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, queue_limit=400)
    await database.start()
    overtaken: list[int] = []

    async def flood() -> None:
        while len(overtaken) < 10:
            await database.execute("select pg_sleep(0.002)", tenant="flood", timeout_s=60)

    floods = [asyncio.create_task(flood()) for _ in range(300)]
    await until(lambda: database.snapshot().waiting >= 290)
    for _ in range(10):
        before = database.snapshot().counters.acquired
        async with database.acquire(tenant="quiet", timeout_s=60):
            overtaken.append(database.snapshot().counters.acquired - before)
    await asyncio.gather(*floods)
    assert max(overtaken) <= 6, overtaken  # those served in the same turn of the loop; never the 290 that came before


async def test_critical_work_is_next_and_background_work_last_under_load(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, background_wait_s=60)
    await database.start()
    order: list[str] = []
    background_at_once = 0

    async def one(priority: Priority, tenant: str) -> None:
        nonlocal background_at_once
        async with database.acquire(priority=priority, tenant=tenant, timeout_s=60) as lease:
            order.append(priority)
            held = [holder.priority for holder in database.snapshot().holders]
            background_at_once = max(background_at_once, held.count("background"))
            await lease.execute("select pg_sleep(0.002)")

    held = await _filled(database)
    jobs = [asyncio.create_task(one("background", f"t{n % 3}")) for n in range(20)]
    pages = [asyncio.create_task(one("web", f"t{n % 3}")) for n in range(60)]
    await until(lambda: database.snapshot().waiting == 80)
    probes = [asyncio.create_task(one("critical", f"t{n % 3}")) for n in range(20)]
    await until(lambda: database.snapshot().waiting == 100)
    for lease in held:
        lease.end()
    await asyncio.gather(*jobs, *pages, *probes)
    assert order == ["critical"] * 20 + ["web"] * 60 + ["background"] * 20
    assert background_at_once == 1
    await _at_rest(database)


async def test_a_tenant_that_fills_the_queue_makes_room_and_is_told_when_to_return(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, connections=1, queue_limit=10)
    await database.start()
    (held,) = await _filled(database, 1)

    async def ask(tenant: str) -> int:
        return int(await database.fetchval("select 1", tenant=tenant))

    flood = [asyncio.create_task(ask("flood")) for _ in range(10)]
    await until(lambda: database.snapshot().waiting == 10)
    others = [asyncio.create_task(ask("other")) for _ in range(3)]
    await until(lambda: sum(task.done() for task in flood) == 3)
    late = asyncio.create_task(ask("flood"))
    await asyncio.wait({late})
    held.end()
    outcomes = await asyncio.gather(*flood, late, return_exceptions=True)
    assert await asyncio.gather(*others) == [1, 1, 1]
    refused = [outcome for outcome in outcomes if isinstance(outcome, DatabaseBusy)]
    assert (len(refused), outcomes.count(1)) == (4, 7)
    assert all(error.retry_after and error.retry_after >= 1 for error in refused)
    assert database.snapshot().counters.refused == 4


async def test_the_tenant_comes_from_the_option_unless_it_is_given(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    names = iter(["first", None])
    database = make_database(postgres_url, tenant_of=lambda: next(names))
    await database.start()
    for _ in range(2):
        await database.fetchval("select 1")
    await database.fetchval("select 1", tenant="given")
    assert set(database._pool.queue._web._accounts) == {"first", None, "given"}


async def test_a_caller_whose_turn_would_come_too_late_is_refused_at_once(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, connections=1)
    await database.start()
    (held,) = await _filled(database, 1)
    for _ in range(100):
        database._pool.load.served(2.0)  # as after a hundred leases of 2 s each
    waiting = [asyncio.create_task(database.fetchval("select 1", timeout_s=60)) for _ in range(4)]
    await until(lambda: database.snapshot().waiting == 4)
    assert database.snapshot().load.expected_wait_s == pytest.approx(10.0, rel=0.2)
    with pytest.raises(DatabaseBusy, match="expected in") as caught:
        await database.fetchval("select 1", timeout_s=5)
    assert caught.value.retry_after == pytest.approx(8.0, rel=0.2)
    assert (database.snapshot().counters.hopeless, database.snapshot().counters.timeouts) == (1, 0)
    critical = asyncio.create_task(database.fetchval("select 2", timeout_s=5, priority="critical"))
    await until(lambda: database.snapshot().waiting == 5)  # nobody is ahead of it, so it may hope
    held.end()
    assert await asyncio.gather(critical, *waiting) == [2, 1, 1, 1, 1]


async def test_a_statement_that_cannot_end_in_time_is_not_started(database: Database) -> None:
    slow = "select pg_sleep(0.05)"
    await _teach(database, slow, 12)

    async def request(limit_s: float) -> str:
        DEADLINE.set(SystemClock().monotonic() + limit_s)
        return await database.execute(slow)

    for _ in range(3):
        with pytest.raises(DeadlineExceeded, match="usually takes longer"):
            await asyncio.create_task(request(0.01))
    now = database.snapshot()
    assert (now.statements[0].calls, now.counters.cancels) == (12, 0)
    assert await asyncio.create_task(request(20)) == "SELECT 1"


async def test_a_waiter_whose_time_is_over_never_takes_a_connection(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, connections=1)
    await database.start()
    (held,) = await _filled(database, 1)
    late = asyncio.create_task(database.fetchval("select 1", timeout_s=30))
    in_time = asyncio.create_task(database.fetchval("select 2", timeout_s=30))
    await until(lambda: database.snapshot().waiting == 2)
    first, _ = database._pool.queue._all()
    first.deadline_s = 0.0  # over since the last tick
    held.end()
    assert await in_time == 2
    with pytest.raises(DatabaseBusy):
        await late
    await _at_rest(database)
    assert database.snapshot().counters.acquired == 2


async def test_a_transaction_tells_the_server_how_much_time_is_left(database: Database) -> None:
    shown = "select setting::int from pg_settings where name = 'statement_timeout'"

    async def work(limit_s: float) -> int:
        DEADLINE.set(SystemClock().monotonic() + limit_s)
        async with database.acquire() as lease, lease.transaction():
            return int(await lease.fetchval(shown))

    assert await asyncio.create_task(work(60)) == 15_000
    assert 0 < await asyncio.create_task(work(7)) <= 7000
    assert await database.fetchval(shown) == 15_000
    assert database.snapshot().idle == 1  # nothing had to be reset


async def test_holders_that_want_more_hear_no_at_once_and_nobody_waits_for_nobody(
    make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, queue_limit=400)
    await database.start()

    async def greedy(n: int) -> str:
        async with database.acquire(tenant=f"t{n % 7}", timeout_s=60) as lease:
            try:
                await database.fetchval("select 1", timeout_s=60)
            except LeaseHeld:
                return str(await lease.fetchval("select 'own lease'"))
        return "two leases"

    outcomes = await asyncio.wait_for(asyncio.gather(*(greedy(n) for n in range(200))), 60)
    assert set(outcomes) == {"own lease"}
    await _at_rest(database)


async def test_nothing_leaks_after_a_thousand_random_cancellations(
    make_database: MakeDatabase, postgres: PostgresServer, postgres_url: str
) -> None:
    """`benchmarks/database_queue.py --cancellations 10000` is the long version."""
    database = make_database(postgres_url, queue_limit=100)
    await database.start()
    dice = random.Random(5)

    async def work(n: int) -> None:
        priority: Priority = dice.choice(["critical", "web", "web", "web", "background"])
        async with database.acquire(priority=priority, tenant=f"t{n % 9}", timeout_s=30) as lease:
            if n % 3:
                await lease.fetchval("select pg_sleep(0.001)")
            else:
                async with lease.transaction():
                    await lease.execute("select 1")
                    await lease.execute("select pg_sleep(0.001)")

    cancelled = 0
    with census(postgres) as seen:
        for _ in range(20):
            tasks = [asyncio.create_task(work(n)) for n in range(50)]
            for task in tasks:
                asyncio.get_running_loop().call_later(dice.random() * 0.03, task.cancel)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
            cancelled += sum(outcome is not None for outcome in outcomes)
        await _at_rest(database)
        assert await asyncio.gather(*(database.fetchval("select $1::int", n) for n in range(30))) == list(range(30))
        await _at_rest(database)
    assert seen.highest <= 3
    assert cancelled > 100
    assert database.snapshot().idle == 3


async def test_the_snapshot_tells_waits_services_and_statements(database: Database) -> None:
    await asyncio.gather(*(database.execute("select pg_sleep($1)", 0.005) for _ in range(60)))
    database._pool.sample_load(SystemClock().monotonic())
    now = database.snapshot()
    assert now.load.callers == 60
    assert 0 < now.load.wait_p50_s <= now.load.wait_p95_s <= now.load.wait_p99_s
    assert now.load.service_mean_s >= 0.005
    assert now.load.utilisation > 0
    assert (now.statements[0].text, now.statements[0].calls) == ("select pg_sleep(?)", 60)
    assert not database.is_saturated
    database._pool.load.is_saturated = True
    assert database.is_saturated and database.snapshot().load.is_saturated


async def test_slow_queries_are_logged_without_their_values(
    make_database: MakeDatabase, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = make_database(postgres_url, slow_query_s=0.01)
    await database.start()
    with caplog.at_level("WARNING", "b1.db"):
        await database.fetchval("select pg_sleep(0.02), 'alice@example.com', $1::text", "hunter2")
        with pytest.raises(DeadlineExceeded):
            await database.fetchval("select pg_sleep(60), 'bob@example.com'", timeout_s=0.05)
    lines = [record.__dict__ for record in caplog.records if record.getMessage() == "slow query"]
    assert [(line["statement"], line["ended"]) for line in lines] == [
        ("select pg_sleep(?), ?, ?::text", "done"),
        ("select pg_sleep(?), ?", "abandoned"),
    ]
    assert "example" not in str(lines) and "hunter2" not in str(lines)
    assert database.snapshot().slow_queries == 2
