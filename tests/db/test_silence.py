"""Absence counts from the oldest question without an answer; a long query alone is no absence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from b1.clock import ManualClock, SystemClock
from b1.db import Database, Lease
from b1.db.reach import Reach
from b1.db.session import Session
from b1.db.silence import SILENCE_CHECK_S, Owner, SilenceWatch
from b1.errors import DeadlineExceeded
from tests.db.census import census
from tests.db.conftest import MakeDatabase, until
from tests.servers import PostgresServer


def _reach(clock: ManualClock) -> Reach:
    return Reach(clock, random.Random(1))


def test_silence_begins_with_the_oldest_question(clock: ManualClock) -> None:
    reach = _reach(clock)
    asked_s = clock.monotonic()
    reach.look(None)
    assert reach.silent_s == 0
    clock.advance(3)
    reach.look(asked_s)
    assert reach.silent_s == 3
    clock.advance(2)
    reach.look(asked_s + 4)  # the first was abandoned without an answer; the server still owes it
    assert reach.silent_s == 5
    assert reach.lose("silent")
    assert reach.away_since_s == asked_s


def test_any_answer_breaks_the_silence_and_older_questions_wait_from_then_on(clock: ManualClock) -> None:
    reach = _reach(clock)
    asked_s = clock.monotonic()
    clock.advance(4)
    reach.look(asked_s)
    reach.answered_s = clock.monotonic()
    clock.advance(1)
    reach.look(asked_s)
    assert reach.silent_s == 1
    reach.hear()
    reach.look(None)
    assert reach.silent_s == 0


def test_without_a_question_absence_begins_when_it_is_noticed(clock: ManualClock) -> None:
    reach = _reach(clock)
    clock.advance(7)
    reach.lose("ConnectionRefusedError")
    assert reach.away_since_s == clock.monotonic()


def test_an_answer_after_the_verdict_takes_it_back(clock: ManualClock) -> None:
    reach = _reach(clock)
    reach.answered_s = clock.monotonic()
    reach.look(clock.monotonic())
    reach.lose("silent")
    assert not reach.has_answered_since
    clock.advance(1)
    reach.answered_s = clock.monotonic()
    assert reach.has_answered_since
    assert reach.find()
    assert (reach.is_away, reach.silent_s) == (False, 0)


class FakeOwner:
    """A pool with one unanswered query, whose sign of life takes `check_s` and does not come."""

    def __init__(self, clock: ManualClock, check_s: float) -> None:
        self.clock = clock
        self.check_s = check_s
        self.idle: list[Session] = []
        self.leases: set[Lease] = set()
        self.errands = SimpleNamespace(leaving={None: clock.monotonic()})
        self.work: list[Coroutine[Any, Any, None]] = []
        self.reach = _reach(clock)
        self.fleet = SimpleNamespace(
            reach=self.reach,
            oldest_attempt_s=None,
            spawn=self.work.append,
            suspect=self.reach.lose,
            opener=SimpleNamespace(sign_of_life=self.sign_of_life),
        )

    async def sign_of_life(self, limit_s: float) -> None:
        self.clock.advance(self.check_s)
        raise TimeoutError


@pytest.mark.parametrize(("check_s", "expected"), [(SILENCE_CHECK_S, True), (3 * SILENCE_CHECK_S, False)])
async def test_a_loop_that_stood_still_blames_nobody(clock: ManualClock, check_s: float, expected: bool) -> None:
    owner = FakeOwner(clock, check_s)
    watch = SilenceWatch(cast("Owner", owner), 5.0)
    clock.advance(4)
    watch.look()
    assert owner.work == []
    clock.advance(1)
    watch.look()
    watch.look()
    (check,) = owner.work
    await check
    assert owner.reach.is_away == expected


@pytest.fixture
def server(own_postgres: Callable[[], PostgresServer]) -> PostgresServer:
    return own_postgres()


@pytest.fixture
async def thaw(server: PostgresServer) -> AsyncIterator[None]:
    yield
    await asyncio.to_thread(_signal, server.resume)


@pytest.mark.real
@pytest.mark.parametrize("busy", [1, 3])
async def test_a_frozen_server_is_away_since_the_first_unanswered_question(
    make_database: MakeDatabase, server: PostgresServer, thaw: None, busy: int
) -> None:
    """With one busy connection an idle one is asked, with three an SSLRequest; no query has given up yet."""
    database = make_database(server.url, silence_s=0.2)
    await database.start()
    await asyncio.gather(*(database.execute("select pg_sleep(0.05)") for _ in range(3)))
    await until(lambda: database.snapshot().idle == 3)
    await asyncio.to_thread(_signal, server.suspend)
    before_s = SystemClock().monotonic()
    callers = [asyncio.create_task(database.fetchval("select 1")) for _ in range(busy)]
    await until(lambda: len(database.snapshot().holders) == busy)
    asked_s = SystemClock().monotonic()
    await until(lambda: database.snapshot().away_since is not None, limit_s=30)
    now = database.snapshot()
    assert now.away_since is not None and before_s <= now.away_since <= asked_s
    assert now.away_reason == "silent"
    assert not any(task.done() for task in callers)
    await asyncio.to_thread(_signal, server.resume)
    assert await asyncio.gather(*callers) == [1] * busy
    await until(lambda: database.snapshot().connected)
    assert await database.fetchval("select 2") == 2


@pytest.mark.real
async def test_abandoned_questions_and_attempts_to_connect_do_not_begin_the_absence_anew(
    make_database: MakeDatabase, server: PostgresServer, thaw: None
) -> None:
    database = make_database(server.url, silence_s=0.2, connect_timeout_s=0.3)
    await database.start()
    await until(lambda: database.snapshot().idle == 1)
    await asyncio.to_thread(_signal, server.suspend)
    before_s = SystemClock().monotonic()
    first = asyncio.create_task(database.fetchval("select 1", timeout_s=0.05))
    await until(lambda: database.snapshot().holders)
    asked_s = SystemClock().monotonic()
    with pytest.raises(DeadlineExceeded):
        await first
    while database.snapshot().away_since is None:
        await asyncio.gather(*(database.fetchval("select 1", timeout_s=0.05) for _ in range(4)), return_exceptions=True)
        await asyncio.sleep(0.01)
    away_since_s = database.snapshot().away_since
    assert away_since_s is not None and before_s <= away_since_s <= asked_s


@pytest.mark.real
@pytest.mark.parametrize("busy", [1, 3])
async def test_long_queries_alone_are_no_absence_and_asking_costs_no_backend(
    make_database: MakeDatabase, postgres: PostgresServer, postgres_url: str, busy: int
) -> None:
    database = make_database(postgres_url, silence_s=0.05)
    await database.start()
    work = asyncio.gather(*(database.execute("select pg_sleep(1)") for _ in range(busy)))
    verdicts = set()
    silence_s = 0.0
    with census(postgres) as seen:
        while not work.done():
            now = database.snapshot()
            verdicts.add(now.away_since)
            silence_s = max(silence_s, now.silent_s)
            await asyncio.sleep(0.01)
        await work
    assert seen.highest <= 3
    assert verdicts == {None}
    assert silence_s > 0


@pytest.mark.real
async def test_a_lone_long_query_and_a_free_connection_open_no_socket(database: Database) -> None:
    await asyncio.gather(*(database.execute("select pg_sleep(0.05)") for _ in range(3)))
    opened = database.snapshot().counters.opened
    database._pool._silence._limit_s = 0.02
    await database.execute("select pg_sleep(0.3)")
    await until(lambda: database.snapshot().in_use == 0)
    assert database.snapshot().counters.opened == opened
    assert database.snapshot().counters.lost == 0


def _signal(family: Callable[[], None]) -> None:
    while True:
        try:
            family()
        except psutil.NoSuchProcess:
            continue
        return
