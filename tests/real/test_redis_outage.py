"""Redis goes away under a running Pantry and comes back: everything goes on, and nobody gets more than twice the quota."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.real.client import Answer, Client
from tests.real.counting import statuses
from tests.real.server import Started
from tests.server.running import wait_for
from tests.servers import RedisServer, Servers

pytestmark = pytest.mark.real


class Outage(NamedTuple):
    """What was seen before, while Redis was away, and after it came back."""

    replayed: Answer
    spent: list[Answer]
    reads: list[Answer]
    ready: Answer
    report: Answer
    mode_afterwards: str
    first: list[Answer]


@pytest.fixture(scope="module", params=["refuses", "is silent"])
def outage(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory, pantry_url: str
) -> Iterator[Outage]:
    redis = servers.redis()
    folder = tmp_path_factory.mktemp("pantry")
    with Started(folder, DATABASE_URL=pantry_url, REDIS_URL=redis.url) as pantry:
        yield _live_through(pantry, redis, silently=request.param == "is silent")
    servers.discard(redis)


def _live_through(pantry: Started, redis: RedisServer, *, silently: bool) -> Outage:
    user, key = pantry.client.log_in(), str(uuid.uuid4())
    assert user.spend(key).status == 201
    first = [user.read() for _ in range(60)]
    (redis.suspend if silently else redis.stop)()
    try:
        replayed, spent = user.spend(key), [user.spend(str(uuid.uuid4())) for _ in range(3)]
        reads = [user.read() for _ in range(110)]
        ready, report = pantry.client.get("/ready"), pantry.client.get("/health/detailed")
    finally:
        (redis.resume if silently else redis.start)()
    wait_for(lambda: _mode(pantry.client, user) == "redis")
    return Outage(replayed, spent, reads, ready, report, _mode(pantry.client, user), first)


def _mode(client: Client, user: Client) -> str:
    user.read()  # the mode is what the last call found
    return str(client.get("/health/detailed").json["components"]["rate_limiter"]["mode"])


def test_a_key_used_before_is_still_known(outage: Outage) -> None:
    assert (outage.replayed.status, outage.replayed.headers["idempotent-replayed"]) == (201, "true")


def test_writes_go_on(outage: Outage) -> None:
    assert statuses(outage.spent) == {201: 3}


def test_the_local_state_enforces_the_same_limits(outage: Outage) -> None:
    assert statuses(outage.first) == {200: 60}
    passed = statuses(outage.reads)
    # At most the quota once more; a local state that knew what Redis had counted lets only the rest of it pass.
    assert 40 <= passed[200] <= 100
    assert passed[200] + passed[429] == 110


def test_the_service_stays_ready_and_says_that_it_is_degraded(outage: Outage) -> None:
    assert outage.ready.status == 200
    report = outage.report.json
    assert (report["status"], outage.report.status) == ("degraded", 200)
    assert report["components"]["redis"]["status"] == "degraded"
    assert report["components"]["rate_limiter"]["mode"] == "local"


def test_it_is_used_again_when_it_is_back(outage: Outage) -> None:
    assert outage.mode_afterwards == "redis"
