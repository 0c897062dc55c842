"""Applications that know nothing of us, with `B1(app)` and without: from their own folder, no database and no Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.real.client import Client
from tests.real.server import Started, run_b1
from tests.server.running import wait_for

pytestmark = pytest.mark.real

WITH_B1 = """
from fastapi import FastAPI
from b1 import B1
app = FastAPI()
b1 = B1(app)

@app.get("/fast")
async def fast(): return {"ok": True}

@app.post("/things")
async def make(thing: dict): return thing

@app.delete("/things")
async def remove(): return {}

@app.get("/slow")
def slow():
    import time
    time.sleep(0.2)
    return {"ok": True}

@app.get("/boom")
async def boom(): raise RuntimeError("a secret detail")
"""
WITHOUT_B1 = WITH_B1.replace("from b1 import B1\n", "").replace("b1 = B1(app)\n", "")
HAND_WRITTEN = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def fast(request): return PlainTextResponse("ok")
app = Starlette(routes=[Route("/fast", fast)])
"""


# Plain uvicorn takes no port from the environment.
UVICORN = (
    "-c",
    "import os, sys, uvicorn; sys.path.insert(0, ''); uvicorn.run('plain:app', port=int(os.environ['PORT']))",
)


def start(folder: Path, source: str, command: Sequence[str] | None = None, **variables: str) -> Started:
    """Write the application into a folder of its own and start it there."""
    (folder / "plain.py").write_text(source)
    return Started(folder, "plain:app", command=command, **variables)


@pytest.fixture(scope="module", params=[None, UVICORN], ids=["b1 run", "uvicorn"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with start(tmp_path_factory.mktemp("plain"), WITH_B1, request.param) as server:
        yield server.client


class TestWithB1:
    def test_its_routes_answer(self, plain: Client) -> None:
        assert (plain.get("/fast").json, plain.get("/slow").json) == ({"ok": True}, {"ok": True})

    def test_probes_metrics_and_the_page_are_there(self, plain: Client) -> None:
        paths = ("/live", "/ready", "/health", "/health/detailed", "/metrics", "/dashboard", "/internal/cache-stats")
        assert [200] * 7 == [plain.get(path).status for path in paths]
        report = plain.get("/health/detailed").json
        assert report["status"] == "healthy"
        assert (report["components"]["postgres"]["status"], report["components"]["redis"]["status"]) == (
            "disabled",
            "disabled",
        )
        assert 'route="/fast"' in plain.get("/metrics").body.decode()

    def test_errors_are_problems_that_keep_their_secrets(self, plain: Client) -> None:
        broken = plain.call("POST", "/things", b"{", {"Content-Type": "application/json"})
        answers = [plain.get("/nowhere"), plain.get("/boom"), broken]
        assert [(404, "NOT_FOUND"), (500, "INTERNAL_ERROR"), (400, "MALFORMED_REQUEST")] == [
            (answer.status, answer.code) for answer in answers
        ]
        assert all(answer.json["requestId"] == answer.headers["x-request-id"] for answer in answers)
        assert b"secret" not in answers[1].body

    def test_strangers_are_limited_by_address_and_class(self, plain: Client) -> None:
        deleted = [plain.call("DELETE", "/things").status for _ in range(6)]
        made = [plain.post("/things", {}) for _ in range(21)]
        assert (deleted, made[-1].status) == ([200] * 5 + [429], 429)
        assert made[-1].headers["x-ratelimit-limit"] == "20"
        assert made[-1].code == "RATE_LIMIT_EXCEEDED"
        read = [plain.get("/fast").status for _ in range(101)]
        assert read[-1] == 429
        assert plain.get("/live").status == 200

    def test_a_body_over_the_cap_is_refused(self, plain: Client) -> None:
        head = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"
        assert plain.raw(head).status == 413


def test_a_failure_is_logged_once_under_the_id_that_the_client_got(tmp_path: Path) -> None:
    with start(tmp_path, WITH_B1, LOG_FORMAT="json") as server:
        answer = server.client.get("/boom")
        wait_for(lambda: "a secret detail" in server.log)
        lines = [json.loads(line) for line in server.log.splitlines()]
    [failure] = [line for line in lines if "exception" in line]
    assert failure["requestId"] == answer.headers["x-request-id"]
    assert (failure["level"], failure["route"], failure["method"]) == ("error", "/boom", "GET")


@pytest.mark.parametrize(
    ("source", "path"),
    [(WITHOUT_B1, "/fast"), (HAND_WRITTEN, "/anything"), (STARLETTE, "/fast")],
    ids=["FastAPI", "hand-written ASGI", "Starlette"],
)
def test_an_application_without_b1_is_wrapped(source: str, path: str, tmp_path: Path) -> None:
    with start(tmp_path, source) as server:
        answer = server.client.get(path)
        assert (answer.status, answer.headers["x-ratelimit-limit"]) == (200, "100")
        assert server.client.get("/health").json["status"] == "healthy"
        assert "x-request-id" in answer.headers


@pytest.mark.parametrize("name", ["nowhere:app", "plain", "plain:", "plain.py"])
def test_a_name_that_leads_nowhere_is_told_before_anything_starts(name: str, tmp_path: Path) -> None:
    done = run_b1("run", name, folder=tmp_path)
    assert done.returncode != 0
    assert repr(name) in done.stderr and "Traceback" not in done.stderr
