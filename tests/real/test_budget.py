"""Never more than three Postgres and two Redis connections of ours on a host, counted from the servers' side.

Every test also shows that those who had to wait, or came after an accident, are served.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.db.census import Census, census
from tests.real.client import Answer
from tests.real.clients import clients
from tests.real.server import SMALL, Started
from tests.server.running import wait_for
from tests.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.real

SLEEPING = "SELECT count(*) AS n FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(%'"
ENOUGH_SAMPLES = 20


def at_once(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda one: one(), calls))


def statuses(answers: Sequence[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def assert_within(seen: Census, most: int = 3) -> None:
    assert seen.samples >= ENOUGH_SAMPLES, "the census slept"
    assert 1 <= seen.highest <= most


def sleeping(server: PostgresServer) -> int:
    return int(server.query(SLEEPING)[0]["n"])


@pytest.fixture(scope="module")
def pantry(
    tmp_path_factory: pytest.TempPathFactory, module_postgres: PostgresServer, module_redis: RedisServer
) -> Iterator[Started]:
    with _copy(tmp_path_factory.mktemp("pantry"), module_postgres, module_redis) as server:
        yield server


def _copy(folder: Path, postgres: PostgresServer, redis: RedisServer) -> Started:
    return Started(folder, DATABASE_URL=postgres.url, REDIS_URL=redis.url, B1_LIMIT_SCALE="100000")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, module_postgres: PostgresServer) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("small")
    with Started(folder, SMALL, DATABASE_URL=module_postgres.url, B1_LIMIT_SCALE="100000") as server:
        yield server


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], Answer]], Future[Any]]]:
    """Make calls whose answer may never come."""
    pool = ThreadPoolExecutor(16)
    yield pool.submit
    pool.shutdown()


class TestCopies:
    def test_two_hundred_requests_at_once_share_three(self, pantry: Started, module_postgres: PostgresServer) -> None:
        user = pantry.client.log_in()
        with census(module_postgres) as seen:
            answers = at_once([lambda: user.spend(str(uuid.uuid4())) for _ in range(200)])
        assert statuses(answers) == {201: 200}
        assert_within(seen)

    def test_two_copies_share_three_and_both_serve_and_a_third_runs_without_redis(
        self, pantry: Started, module_postgres: PostgresServer, module_redis: RedisServer, tmp_path: Path
    ) -> None:
        user = pantry.client.log_in()
        with census(module_postgres) as backends, clients(module_redis) as connections:
            with _copy(tmp_path / "second", module_postgres, module_redis) as second:
                both = [user, user.at(second.port)]
                answers = at_once([lambda n=n: both[n % 2].spend(str(uuid.uuid4())) for n in range(120)])  # type: ignore[misc]
                assert statuses(answers) == {201: 120}
                with _copy(tmp_path / "third", module_postgres, module_redis) as third:
                    assert user.at(third.port).spend(str(uuid.uuid4())).status == 201
                    report = third.client.get("/health/detailed").json
                    assert report["status"] == "degraded"
                    assert report["components"]["rate_limiter"]["mode"] == "local"
                    assert third.client.get("/ready").status == 200
        assert_within(backends)
        assert connections.samples >= ENOUGH_SAMPLES
        assert connections.highest == 2

    def test_a_reload_in_the_middle_of_a_burst_stays_within_and_loses_nothing(
        self, pantry: Started, module_postgres: PostgresServer, module_redis: RedisServer
    ) -> None:
        user, [before] = pantry.client.log_in(), pantry.workers()
        with census(module_postgres) as backends, clients(module_redis) as connections:
            with ThreadPoolExecutor(16) as pool:
                spent = [pool.submit(user.spend, str(uuid.uuid4())) for _ in range(100)]
                pantry.send(signal.SIGHUP)
                wait_for(lambda: before not in pantry.workers())
                spent += [pool.submit(user.spend, str(uuid.uuid4())) for _ in range(50)]
            assert statuses([one.result() for one in spent]) == {201: 150}
        assert_within(backends)
        assert connections.highest <= 2


class TestAccidents:
    def test_a_worker_killed_in_mid_query(
        self, small: Started, module_postgres: PostgresServer, background: Callable[..., Future[Any]]
    ) -> None:
        [worker] = small.workers()
        with census(module_postgres) as seen:
            lost = [background(small.client.get, "/query?s=30") for _ in range(6)]
            wait_for(lambda: sleeping(module_postgres) == 3)
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda: small.client.is_up("/query"))
            answers = at_once([lambda: small.client.get("/query?s=0.05") for _ in range(12)])
        assert statuses(answers) == {200: 12}
        assert worker not in {answer.json for answer in answers}
        assert all(one.exception(timeout=30) is not None for one in lost)
        assert_within(seen)

    def test_queries_abandoned_by_their_deadline(self, small: Started, module_postgres: PostgresServer) -> None:
        with census(module_postgres) as seen:
            answers = at_once([lambda: small.client.get("/abandoned") for _ in range(9)])
            assert {503} == {answer.status for answer in answers}
            assert {answer.code for answer in answers} <= {"DEADLINE_EXCEEDED", "DB_BUSY"}
            assert all("retry-after" in answer.headers for answer in answers)
            after = at_once([lambda: small.client.get("/query?s=0.05") for _ in range(12)])
            wait_for(lambda: sleeping(module_postgres) == 0)
        assert statuses(after) == {200: 12}
        assert_within(seen)

    def test_a_query_that_the_server_itself_ended_is_no_failure_of_ours(self, small: Started) -> None:
        answer = small.client.get("/overdue")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")

    def test_a_forked_child_that_outlives_its_worker(
        self, small: Started, module_postgres: PostgresServer, background: Callable[..., Future[Any]]
    ) -> None:
        at_once([lambda: small.client.get("/query?s=0.1") for _ in range(6)])  # all three are open
        child: int = small.client.get("/fork").json
        try:
            with census(module_postgres) as seen:
                background(small.client.get, "/query?s=30")
                wait_for(lambda: sleeping(module_postgres) == 1)
                os.kill(small.workers()[0], signal.SIGKILL)
                wait_for(lambda: small.client.is_up("/query"))
                answers = at_once([lambda: small.client.get("/query?s=0.05") for _ in range(12)])
                os.kill(child, 0)  # it lived all the time
            assert statuses(answers) == {200: 12}
            assert_within(seen)
        finally:
            os.kill(child, signal.SIGKILL)


class TestOneKeyMissedByThreeTransactions:
    def test_each_loads_with_its_own_lease_and_none_waits_for_another(self, small: Started) -> None:
        key = str(uuid.uuid4())
        answers = at_once([lambda: small.client.get(f"/load-within?key={key}") for _ in range(3)])
        assert [(200, 7)] * 3 == [(answer.status, answer.json) for answer in answers]

    def test_a_load_that_wants_a_second_lease_is_told_at_once(self, small: Started) -> None:
        key = str(uuid.uuid4())
        answers = at_once([lambda: small.client.get(f"/load-beside?key={key}") for _ in range(3)])
        assert [(500, "LEASE_HELD")] * 3 == [(answer.status, answer.code) for answer in answers]

    def test_afterwards_the_key_can_be_loaded(self, small: Started) -> None:
        answers = at_once([lambda: small.client.get(f"/load?key={uuid.uuid4()}") for _ in range(9)])
        assert statuses(answers) == {200: 9}
