"""Accidents in mid-query: at most three backends all the while, and everybody who comes afterwards is served."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.db.census import census
from tests.real.counting import assert_within, at_once, onlooker, statuses
from tests.real.server import SMALL, Started
from tests.server.running import wait_for
from tests.servers import PostgresServer

pytestmark = pytest.mark.real

Count = Callable[[], int]
Background = Callable[..., Future[Any]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, module_postgres: PostgresServer) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("small")
    with Started(folder, SMALL, DATABASE_URL=module_postgres.url, B1_LIMIT_SCALE="100000") as server:
        yield server


@pytest.fixture
def sleeping(module_postgres: PostgresServer) -> Iterator[Count]:
    """Count the queries that sleep now."""
    with onlooker(module_postgres) as count:
        yield count


@pytest.fixture
def background() -> Iterator[Background]:
    """Make calls whose answer may never come."""
    pool = ThreadPoolExecutor(16)
    yield pool.submit
    pool.shutdown()


class TestAccidents:
    def test_a_worker_killed_in_mid_query(
        self, small: Started, module_postgres: PostgresServer, sleeping: Count, background: Background
    ) -> None:
        [worker] = small.workers()
        with census(module_postgres) as seen:
            lost = [background(small.client.get, "/query?s=30") for _ in range(6)]
            wait_for(lambda: sleeping() == 3)
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda: small.client.is_up("/query"))
            answers = at_once([lambda: small.client.get("/query?s=0.05") for _ in range(12)])
        assert statuses(answers) == {200: 12}
        assert worker not in {answer.json for answer in answers}
        assert all(one.exception(timeout=30) is not None for one in lost)
        assert_within(seen)

    def test_queries_abandoned_by_their_deadline(
        self, small: Started, module_postgres: PostgresServer, sleeping: Count
    ) -> None:
        with census(module_postgres) as seen:
            answers = at_once([lambda: small.client.get("/abandoned") for _ in range(9)])
            assert {503} == {answer.status for answer in answers}
            assert {answer.code for answer in answers} <= {"DEADLINE_EXCEEDED", "DB_BUSY"}
            assert all("retry-after" in answer.headers for answer in answers)
            after = at_once([lambda: small.client.get("/query?s=0.05") for _ in range(12)])
            wait_for(lambda: sleeping() == 0)
        assert statuses(after) == {200: 12}
        assert_within(seen)

    def test_a_query_that_the_server_itself_ended_is_no_failure_of_ours(self, small: Started) -> None:
        answer = small.client.get("/overdue")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")

    def test_a_forked_child_that_outlives_its_worker(
        self, small: Started, module_postgres: PostgresServer, sleeping: Count, background: Background
    ) -> None:
        at_once([lambda: small.client.get("/query?s=0.1") for _ in range(6)])  # all three are open
        child: int = small.client.get("/fork").json
        try:
            with census(module_postgres) as seen:
                background(small.client.get, "/query?s=30")
                wait_for(lambda: sleeping() == 1)
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
