"""Clients that repeat until they are answered, while the worker is killed and Redis is flushed: one effect per key."""

from __future__ import annotations

import http.client
import os
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.real.client import EXPENSE, Answer, Client
from tests.real.counting import statuses
from tests.real.server import Started
from tests.server.running import wait_for
from tests.servers import RedisServer

pytestmark = pytest.mark.real

KEYS = 200
ACCIDENTS_AFTER = (30, 100)  # answers
AGAIN_S = 0.05
PATIENCE_S = 60.0


@pytest.fixture(scope="module", params=["memory", "redis"])
def pantry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pantry_url: str
) -> Iterator[Started]:
    redis: dict[str, str] = {}
    if request.param == "redis":
        redis = {"REDIS_URL": request.getfixturevalue("module_redis").url}
    folder = tmp_path_factory.mktemp("pantry")
    with Started(folder, DATABASE_URL=pantry_url, B1_LIMIT_SCALE="1000", **redis) as server:
        yield server


def insist(user: Client, key: str, description: str) -> Answer:
    """Repeat one write as a careful client does: after a lost connection, a 503, and a 409 that says "still running"."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = user.spend(key, {**EXPENSE, "description": description})
        except (OSError, http.client.HTTPException):
            answer = None
        if answer is not None and answer.status != 503 and answer.code != "IDEMPOTENCY_IN_FLIGHT":
            return answer
        assert time.monotonic() < end_s, f"never answered: {answer}"
        time.sleep(AGAIN_S)


def listed(user: Client, description: str) -> list[int]:
    """Return the ids of the expenses of this description, from all pages."""
    found: list[int] = []
    cursor = ""
    while True:
        page = user.get(f"/v1/finance/expenses?limit=200{cursor}").json
        found += [item["id"] for item in page["items"] if item["description"] == description]
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


def test_every_key_has_one_effect_and_its_answer_is_remembered(pantry: Started, request: pytest.FixtureRequest) -> None:
    user, description = pantry.client.log_in(), str(uuid.uuid4())
    keys = [str(uuid.uuid4()) for _ in range(KEYS)]
    answered, killed = list[str](), list[int]()

    def write(key: str) -> Answer:
        answer = insist(user, key, description)
        answered.append(key)
        return answer

    with ThreadPoolExecutor(12) as pool:
        accidents = pool.submit(_accidents, pantry, _flushed(request), answered, killed)
        answers = list(pool.map(write, keys))
        accidents.result()
        again = list(pool.map(lambda key: insist(user, key, description), keys))
    assert len(killed) == len(ACCIDENTS_AFTER)
    assert statuses(answers) == {201: KEYS}
    assert sorted(answer.json["id"] for answer in answers) == sorted(listed(user, description))
    assert [answer.body for answer in again] == [answer.body for answer in answers]
    assert {answer.headers.get("idempotent-replayed") for answer in again} == {"true"}


def _flushed(request: pytest.FixtureRequest) -> RedisServer | None:
    return request.getfixturevalue("module_redis") if "redis" in request.node.name else None


def _accidents(pantry: Started, redis: RedisServer | None, answered: list[str], killed: list[int]) -> None:
    """Kill the worker in the middle of its work, each time once it serves, and flush Redis in between."""
    for after in ACCIDENTS_AFTER:
        wait_for(lambda enough=after: len(answered) >= enough)  # type: ignore[misc]
        [worker] = pantry.workers()
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)
        if redis is not None:
            redis.command("FLUSHALL")
        wait_for(lambda gone=worker: pantry.client.is_up() and gone not in pantry.workers())  # type: ignore[misc]
