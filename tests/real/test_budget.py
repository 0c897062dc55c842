"""Never more than three Postgres and two Redis connections of ours on a host, however many copies run, and all serve."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.db.census import census
from tests.real.counting import ENOUGH_SAMPLES, assert_within, at_once, clients, statuses
from tests.real.server import Started
from tests.server.running import wait_for
from tests.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def pantry(
    tmp_path_factory: pytest.TempPathFactory, module_postgres: PostgresServer, module_redis: RedisServer
) -> Iterator[Started]:
    with _copy(tmp_path_factory.mktemp("pantry"), module_postgres, module_redis) as server:
        yield server


def _copy(folder: Path, postgres: PostgresServer, redis: RedisServer) -> Started:
    return Started(folder, DATABASE_URL=postgres.url, REDIS_URL=redis.url, B1_LIMIT_SCALE="100000")


class TestCopies:
    def test_two_hundred_requests_at_once_share_three(self, pantry: Started, module_postgres: PostgresServer) -> None:
        user = pantry.client.log_in()
        with census(module_postgres) as seen:
            answers = at_once([lambda: user.spend_in_the_end(str(uuid.uuid4())) for _ in range(200)])
        assert statuses(answers) == {201: 200}
        assert_within(seen)

    def test_two_copies_share_three_and_both_serve_and_a_third_runs_without_redis(
        self, pantry: Started, module_postgres: PostgresServer, module_redis: RedisServer, tmp_path: Path
    ) -> None:
        user = pantry.client.log_in()
        with (
            census(module_postgres) as backends,
            clients(module_redis) as connections,
            _copy(tmp_path / "second", module_postgres, module_redis) as second,
        ):
            both = [user, user.at(second.port)] * 60
            answers = at_once([partial(one.spend_in_the_end, str(uuid.uuid4())) for one in both])
            assert statuses(answers) == {201: 120}
            with _copy(tmp_path / "third", module_postgres, module_redis) as third:
                assert user.at(third.port).spend(str(uuid.uuid4())).status == 201
                report = third.client.get("/health/detailed").json
                assert (report["status"], report["components"]["rate_limiter"]["mode"]) == ("degraded", "local")
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
                spent = [pool.submit(user.spend_in_the_end, str(uuid.uuid4())) for _ in range(100)]
                pantry.send(signal.SIGHUP)
                wait_for(lambda: before not in pantry.workers())
                spent += [pool.submit(user.spend_in_the_end, str(uuid.uuid4())) for _ in range(50)]
            assert statuses([one.result() for one in spent]) == {201: 150}
        assert_within(backends)
        assert connections.highest <= 2
