"""`b1 limits` against a real worker of `b1 run`, its state in memory and in Redis; what it says is what clients got."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.server import Started, run_b1
from tests.servers import RedisServer

pytestmark = pytest.mark.real

TOKEN = "an admin token of these tests, long enough"
APPLICATION = """
from fastapi import FastAPI
from b1 import B1
app = FastAPI()
b1 = B1(app)

@app.get("/rare")
@b1.limit("3/hour", by="address")
async def rare(): return {"ok": True}
"""
ADDRESS = "127.0.0.1"


@pytest.fixture(scope="module", params=["memory", "redis"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer
) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "one.py").write_text(APPLICATION)
    redis = {"REDIS_URL": module_redis.url} if request.param == "redis" else {}
    with Started(folder, "one:app", ADMIN_TOKEN=TOKEN, B1_ENV="production", **redis) as started:
        yield started


def _limits(served: Started, *words: str, token: str = TOKEN) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{served.port}"
    done = run_b1("limits", *words, "--url", url, "--json", folder=served.state_dir.parent, ADMIN_TOKEN=token)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def _rare(served: Started) -> int:
    return served.client.get("/rare").status


def test_what_was_spent_is_shown_and_given_back(served: Started) -> None:
    assert [200, 200, 200, 429] == [_rare(served) for _ in range(4)]

    _, shown = _limits(served, "show", "--address", ADDRESS, "--policy", "rare-3600s")
    assert [("rare-3600s", 3, 0, 3)] == [_state(one) for one in shown["states"]]

    _, reset = _limits(served, "reset", "--address", ADDRESS, "--policy", "rare-3600s")
    assert {"rare-3600s": 3} == reset["given_back"]
    assert [("rare-3600s", 0, 3, 3)] == [_state(one) for one in reset["states"]]

    assert [200, 200, 200, 429] == [_rare(served) for _ in range(4)]
    _limits(served, "reset", "--address", ADDRESS, "--policy", "rare-3600s")


def test_the_policies_are_shown_with_who_counts(served: Started) -> None:
    _, shown = _limits(served, "show")
    assert shown["limiter"]["mode"] in ("memory", "redis")
    assert {"read", "write", "delete", "rare-3600s"} <= {one["name"] for one in shown["policies"]}


def test_without_the_token_nothing_is_said(served: Started) -> None:
    code, said = _limits(served, "show", token="another")
    assert (1, True) == (code, "ADMIN_TOKEN" in said)


def test_a_log_is_simulated_under_the_same_policies(served: Started) -> None:
    log = served.state_dir.parent / "traffic.csv"
    log.write_text("\n".join(["time,address,method,path", *[f"{second},{ADDRESS},GET,/rare" for second in range(4)]]))
    done = run_b1("limits", "simulate", str(log), "--app", "one:app", "--json", folder=served.state_dir.parent)
    assert (0, 1) == (done.returncode, json.loads(done.stdout)["refused"]), done.stderr


def test_nobody_answers_where_nobody_listens(tmp_path: Path) -> None:
    done = run_b1("limits", "show", "--url", "http://127.0.0.1:9", folder=tmp_path)
    assert (1, True) == (done.returncode, "is it running?" in done.stderr)


def _state(one: dict[str, Any]) -> tuple[str, int, int, int]:
    return one["policy"], one["used"], one["remaining"], one["limit"]
