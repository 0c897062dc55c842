"""Warming under the real command: a replaced worker has what was read before anybody asks it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from b1.clock import SystemClock
from b1.identity import Tokens
from b1.settings import Secret
from tests.real.client import Client
from tests.real.server import SECRET, Started
from tests.server.running import wait_for

pytestmark = pytest.mark.real

APP = """
import os
from fastapi import FastAPI
from b1 import B1

app = FastAPI()
b1 = B1(app)
runs = []

@b1.warming.critical()
async def critical():
    runs.append("critical")

@b1.warming.for_principal()
async def inbox(principal):
    runs.append(f"inbox {principal.actor}")

@app.get("/board")
@b1.cached(ttl_s=600, vary="organization")
async def board():
    runs.append(f"board {b1.principal().actor}")
    return {"pid": os.getpid()}

@app.get("/runs")
async def seen():
    return {"pid": os.getpid(), "runs": runs, "warming": b1.runtime.warming.snapshot().warmed}
"""


def test_the_first_request_to_a_successor_is_a_hit(tmp_path: Path) -> None:
    (tmp_path / "warmed.py").write_text(APP)
    with Started(tmp_path, "warmed:app", ENABLE_RATE_LIMITING="0") as server:
        token = Tokens(Secret(SECRET), SystemClock()).issue("ann", {"org": "1", "tier": "pro"}, ttl_s=600)
        ann = Client(server.port, token)
        old = ann.get("/board").json["pid"]
        ann.get("/board")
        wait_for(lambda: "inbox ann" in ann.get("/runs").json["runs"])
        server.send(signal.SIGHUP)
        wait_for(lambda: Client(server.port).get("/runs").json["pid"] != old, limit_s=20)
        wait_for(lambda: Client(server.port).get("/runs").json["warming"].get("learnt") == 1)
        bare = Client(server.port).get("/runs").json
        assert ["critical", "board ann"] == bare["runs"]
        reply = ann.get("/board")
        assert "hit" in reply.headers["cache-status"]
        assert bare["pid"] == reply.json["pid"]
