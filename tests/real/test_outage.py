"""Postgres goes away under a running Pantry, in the two ways it can: it refuses, or it says nothing any more.

One outage per way, as long as /ready needs to notice it, and both at once: the tests look at what was seen.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.db.census import Census, census
from tests.real.client import Answer, Client
from tests.real.counting import statuses
from tests.real.server import Started, migrate
from tests.server.running import wait_for
from tests.servers import PostgresServer, Servers

pytestmark = pytest.mark.real

DEADLINE_S = 30.0
NOTICED_AFTER_S = 15.0


class Outage(NamedTuple):
    """What was seen from outside while the server was away, and afterwards."""

    at_once: list[Answer]
    writes: list[Answer]
    write_took_s: float
    cached: Answer
    probes_meanwhile: list[Answer]
    ready_early: Answer
    not_ready: Answer
    health: Answer
    detailed: Answer
    back: list[Answer]
    books: Answer
    most_backends: int


WAYS = ("refuses", "is silent")


@pytest.fixture(scope="module")
def outages(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outage]]:
    """Both at once, each under a Pantry and with a Postgres of its own: nearly all of it is waiting."""
    refusing, silent = (servers.postgres() for _ in WAYS)
    with ThreadPoolExecutor(1) as beside:
        frozen = beside.submit(_outage, silent, tmp_path_factory.mktemp("silent"), silently=True)
        # Linux ties a started server to the thread that forked it: the one that starts again belongs to this thread.
        stopped = _outage(refusing, tmp_path_factory.mktemp("refusing"), silently=False)
        yield dict(zip(WAYS, (stopped, frozen.result()), strict=True))
    for server in (refusing, silent):
        servers.discard(server)


@pytest.fixture(scope="module", params=WAYS)
def outage(request: pytest.FixtureRequest, outages: dict[str, Outage]) -> Outage:
    return outages[request.param]


def _outage(server: PostgresServer, folder: Path, *, silently: bool) -> Outage:
    migrate(server.url)
    # A server that stops ends the census too; frozen, it answers all the questions when it goes on.
    looking = census(server) if silently else nullcontext(Census())
    with Started(folder, DATABASE_URL=server.url, B1_LIMIT_SCALE="1000") as pantry, looking as seen:
        return _live_through(pantry, server, seen, silently=silently)


def _live_through(pantry: Started, server: PostgresServer, seen: Census, *, silently: bool) -> Outage:
    # Two writes leave one connection to the probe: with three, the silence is noticed when the first write gives up.
    user, keys = pantry.client.log_in(), [str(uuid.uuid4()) for _ in range(2)]
    assert user.spend(str(uuid.uuid4())).status == 201
    assert user.get("/v1/finance/summary").status == 200
    (server.suspend if silently else server.stop)()
    begun_s = time.monotonic()
    try:
        with ThreadPoolExecutor(8) as pool:
            writing = [pool.submit(user.spend, key) for key in keys]
            at_once = [pantry.client.get(path) for path in ("/live", "/health", "/ready")]
            cached = user.get("/v1/finance/summary")
            meanwhile = [pantry.client.get(path) for _ in range(20) for path in ("/live", "/health")]
            writes = [one.result() for one in writing]
            write_took_s = time.monotonic() - begun_s
        ready_early = pantry.client.get("/ready")
        wait_for(lambda: pantry.client.get("/ready").status == 503, limit_s=NOTICED_AFTER_S + DEADLINE_S)
        not_ready, health, detailed = (pantry.client.get(path) for path in ("/ready", "/health", "/health/detailed"))
    finally:
        (server.resume if silently else server.start)()
    wait_for(lambda: pantry.client.is_up())
    back = [_until_served(user, key) for key in keys]
    return Outage(
        at_once, writes, write_took_s, cached, meanwhile, ready_early, not_ready, health, detailed, back,
        user.get("/v1/finance/balance"), seen.highest,
    )  # fmt: skip


def _until_served(user: Client, key: str) -> Answer:
    """Repeat the write with its key as the 503 says, for a while."""
    answer = user.spend(key)

    def is_served() -> bool:
        nonlocal answer
        answer = user.spend(key)
        return answer.status != 503

    wait_for(is_served)
    return answer


def test_probes_go_on_as_if_nothing_was(outage: Outage) -> None:
    assert statuses([*outage.at_once, *outage.probes_meanwhile]) == {200: 43}


def test_cached_reads_go_on(outage: Outage) -> None:
    assert outage.cached.status == 200
    assert outage.cached.headers["cache-status"].startswith("b1; hit; ")


def test_writes_are_told_when_to_come_back_within_the_deadline(outage: Outage) -> None:
    assert statuses(outage.writes) == {503: 2}
    assert {answer.code for answer in outage.writes} <= {"DB_UNAVAILABLE", "DB_BUSY", "DEADLINE_EXCEEDED"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in outage.writes)
    assert outage.write_took_s < DEADLINE_S


def test_ready_tells_after_a_while_and_says_why(outage: Outage) -> None:
    assert outage.ready_early.status == 200 or outage.write_took_s > NOTICED_AFTER_S
    assert (outage.not_ready.status, outage.not_ready.json["reason"]) == (503, "postgres")


def test_health_is_degraded_and_no_reason_to_replace_the_instance(outage: Outage) -> None:
    assert (outage.health.status, outage.health.json["status"]) == (200, "degraded")
    postgres = outage.detailed.json["components"]["postgres"]
    assert (postgres["status"], postgres["away_s"] >= NOTICED_AFTER_S) == ("degraded", True)
    assert "127.0.0.1" not in outage.detailed.body.decode()


def test_it_heals_by_itself_and_each_write_happened_once(outage: Outage) -> None:
    assert statuses(outage.back) == {201: 2}
    assert len({answer.json["id"] for answer in outage.back}) == 2
    assert outage.books.json["INR"]["debitsCents"] == 3 * outage.back[0].json["amountCents"]
    assert outage.books.json["INR"]["differenceCents"] == 0


def test_what_was_frozen_comes_back_beside_nothing_new(outage: Outage) -> None:
    assert outage.most_backends <= 3
