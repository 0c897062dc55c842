"""Contract §8, first bullet, counted from outside: never more than three, whatever happens, and everybody is served."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from b1.clock import DEADLINE, SystemClock
from b1.db import Database
from b1.errors import DeadlineExceeded
from tests.db.census import census
from tests.db.conftest import MakeDatabase, Neighbour, until
from tests.servers import PostgresServer

Neighbours = Callable[..., Neighbour]


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(loop_kind: str) -> tuple[str, dict[str, Any]]:
    """Both loops: closing a socket, a cancelled wait and a timer are the loop's business."""
    return "asyncio", {"use_uvloop": loop_kind == "uvloop"}


async def test_two_hundred_tasks_share_three_connections(postgres: PostgresServer, database: Database) -> None:
    with census(postgres) as seen:
        answers = await asyncio.gather(*(database.fetchval("select $1::int", n) for n in range(200)))
        await asyncio.gather(*(database.execute("select pg_sleep(0.002)") for _ in range(200)))
    assert answers == list(range(200))
    assert seen.highest <= 3
    assert database.snapshot().idle == 3


@pytest.mark.real
async def test_two_processes_share_three_and_both_are_served(
    postgres: PostgresServer, database: Database, postgres_url: str, neighbours: Neighbours, loop_kind: str
) -> None:
    with census(postgres) as seen:
        busy = asyncio.gather(*(_keep_busy(database) for _ in range(20)))
        await until(lambda: len(database.snapshot().holders) == 3)
        neighbour = neighbours(postgres_url, loop_kind, "serve", "20", "5")
        before = database.snapshot().counters.acquired
        for _ in range(10):
            await neighbour.next_event()
        assert database.snapshot().counters.acquired > before + 20
        busy.cancel()
        await asyncio.wait({busy})
    assert seen.highest <= 3
    assert database.snapshot().counters.yielded >= 1


@pytest.mark.real
async def test_five_processes_take_turns_on_three(
    postgres: PostgresServer, postgres_url: str, neighbours: Neighbours, loop_kind: str
) -> None:
    with census(postgres) as seen:
        crowd = [neighbours(postgres_url, loop_kind, "serve", "4", "5") for _ in range(5)]
        with anyio.fail_after(60):
            for one in crowd:
                for _ in range(5):
                    await one.next_event()
    assert seen.highest <= 3


@pytest.mark.real
async def test_an_idle_holder_gives_one_up_for_a_newcomer(
    postgres: PostgresServer, database: Database, postgres_url: str, neighbours: Neighbours, loop_kind: str
) -> None:
    await asyncio.gather(*(database.execute("select pg_sleep(0.05)") for _ in range(3)))
    assert database.snapshot().idle == 3
    with census(postgres) as seen:
        neighbour = neighbours(postgres_url, loop_kind, "hold", "select pg_sleep(0.1)")
        await neighbour.next_event()
    assert seen.highest <= 3
    assert database.snapshot().idle == 2
    assert database.snapshot().counters.yielded == 1


@pytest.mark.real
async def test_a_process_killed_in_mid_query_leaves_no_fourth_backend(
    postgres: PostgresServer, make_database: MakeDatabase, postgres_url: str, neighbours: Neighbours, loop_kind: str
) -> None:
    neighbour = neighbours(postgres_url, loop_kind, "hold", *["select pg_sleep(60)"] * 3)
    for _ in range(3):
        await neighbour.next_event()
    newcomer = make_database(postgres_url)
    with census(postgres) as seen:
        assert seen.latest == 3
        neighbour.kill()
        await newcomer.start()
        await asyncio.gather(*(newcomer.execute("select pg_sleep(0.05)") for _ in range(30)))
    assert seen.highest <= 3
    assert newcomer.snapshot().idle == 3


@pytest.mark.real
async def test_a_forked_child_keeps_no_connection_of_its_killed_parent(
    postgres: PostgresServer, make_database: MakeDatabase, postgres_url: str, neighbours: Neighbours, loop_kind: str
) -> None:
    neighbour = neighbours(postgres_url, loop_kind, "fork")
    child = (await neighbour.next_event())["child"]
    newcomer = make_database(postgres_url)
    with census(postgres) as seen:
        neighbour.kill()
        await newcomer.start()
        await asyncio.gather(*(newcomer.execute("select pg_sleep(0.05)") for _ in range(9)))
        os.kill(child, 0)  # it lived all the time
    assert seen.highest <= 3
    assert newcomer.snapshot().idle == 3
    os.kill(child, 9)


async def test_a_cancelled_query_is_interrupted_through_a_sibling(postgres: PostgresServer, database: Database) -> None:
    await asyncio.gather(*(database.execute("select pg_sleep(0.02)") for _ in range(3)))
    with census(postgres) as seen:
        for _ in range(5):
            query = asyncio.create_task(database.execute("select pg_sleep(60)"))
            await until(lambda: database.snapshot().in_use == 1)
            query.cancel()
            with pytest.raises(asyncio.CancelledError):
                await query
            await until(lambda: database.snapshot().idle == 3)
    assert seen.highest <= 3
    now = database.snapshot()
    assert (now.counters.cancels, now.counters.opened, now.counters.lost) == (5, 3, 0)


async def test_without_a_free_sibling_the_socket_is_closed_and_the_slot_rests(
    postgres: PostgresServer, database: Database
) -> None:
    with census(postgres) as seen:
        queries = [asyncio.create_task(database.execute("select pg_sleep(60)")) for _ in range(3)]
        await until(lambda: len(database.snapshot().holders) == 3)
        for query in queries:
            query.cancel()
        await asyncio.gather(*queries, return_exceptions=True)
        await asyncio.gather(*(database.execute("select pg_sleep(0.02)") for _ in range(30)))
    assert seen.highest <= 3
    assert database.snapshot().counters.lost >= 1


async def test_a_query_past_the_deadline_of_its_request_ends_for_the_caller(
    postgres: PostgresServer, database: Database
) -> None:
    async def request() -> None:
        DEADLINE.set(SystemClock().monotonic() + 0.1)
        await database.execute("select pg_sleep(60)")

    await asyncio.gather(*(database.execute("select pg_sleep(0.02)") for _ in range(3)))
    with census(postgres) as seen:
        outcomes = await asyncio.gather(*(request() for _ in range(2)), return_exceptions=True)
        await until(lambda: database.snapshot().idle == 3)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 2
    assert seen.highest <= 3


async def test_a_storm_of_cancellations_never_opens_a_fourth(postgres: PostgresServer, database: Database) -> None:
    async def impatient(n: int) -> None:
        with anyio.move_on_after(0.005 * (n % 7)):
            await database.execute("select pg_sleep(0.03)")

    with census(postgres) as seen:
        for _ in range(5):
            await asyncio.gather(*(impatient(n) for n in range(60)))
        assert await database.fetchval("select 7") == 7
    assert seen.highest <= 3


async def test_a_connection_limit_of_the_role_is_waited_for(
    postgres: PostgresServer, make_database: MakeDatabase, postgres_url: str
) -> None:
    postgres.execute("alter role b1 connection limit 2")
    try:
        database = make_database(postgres_url)
        await database.start()
        with census(postgres) as seen:
            await asyncio.gather(*(database.execute("select pg_sleep(0.02)") for _ in range(60)))
        assert seen.highest <= 3  # the one refused is seen for a moment by newer servers
        assert database.snapshot().idle == 2
        assert database.snapshot().away_since is None
    finally:
        postgres.execute("alter role b1 connection limit -1")


async def test_idle_connections_are_closed_after_their_lifetime(
    postgres: PostgresServer, make_database: MakeDatabase, postgres_url: str
) -> None:
    database = make_database(postgres_url, idle_lifetime_s=0.1)
    await database.start()
    await asyncio.gather(*(database.execute("select pg_sleep(0.02)") for _ in range(3)))
    await until(lambda: database.snapshot().idle == 0 and not database.snapshot().closing)
    assert await database.fetchval("select 1") == 1


async def test_closing_ends_every_backend(postgres: PostgresServer, database: Database) -> None:
    await asyncio.gather(*(database.execute("select pg_sleep(0.02)") for _ in range(3)))
    with census(postgres) as seen:
        await database.aclose()
        samples = seen.samples
        await until(lambda: seen.samples > samples + 1)
        assert seen.latest == 0
    assert database.snapshot().in_use == 0


async def _keep_busy(database: Database) -> None:
    while True:
        await database.execute("select pg_sleep(0.005)")
