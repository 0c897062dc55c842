"""Two workers at once and no Redis: what one of them invalidates, the other one does not serve."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.real.client import Client
from tests.real.server import Started
from tests.real.steady import Talk
from tests.server.running import wait_for

pytestmark = pytest.mark.real

APP = """
import asyncio
import os
from pathlib import Path
from fastapi import FastAPI
from b1 import B1

FOLDER = Path(__file__).parent
app = FastAPI()
b1 = B1(app)

async def load():
    return (FOLDER / "value").read_text()

async def held(name):
    while not (FOLDER / name).exists():
        await asyncio.sleep(0.01)

@b1.warming.critical()
async def warm():
    await b1.cache.get_or_load("value", load, ttl="cold")
    if (FOLDER / "is_slow").exists():
        (FOLDER / "warmed").touch()
        await held("go")

@app.get("/value")
async def value():
    return {"pid": os.getpid(), "value": await b1.cache.get_or_load("value", load, ttl="cold")}

@app.post("/value")
async def write(to: str, after: str = "value"):
    (FOLDER / "begun").touch()
    await held(after)
    (FOLDER / "value").write_text(to)
    await b1.cache.invalidate(keys=["value"])
    return {"pid": os.getpid()}

@app.get("/hold")
async def hold():
    (FOLDER / "holding").touch()
    await held("end")
    return {"pid": os.getpid()}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "valued.py").write_text(APP)
    (tmp_path / "value").write_text("old")
    return tmp_path


def test_what_a_draining_worker_writes_is_not_served_as_it_was_by_its_successor(folder: Path) -> None:
    with (
        Started(folder, "valued:app", ENABLE_RATE_LIMITING="0", B1_REPLACEMENT="handover") as server,
        Talk(server.port) as writer,
        Talk(server.port) as holder,
    ):
        old = Client(server.port).get("/value").json["pid"]
        writer.send(b"POST /value?to=new&after=go HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        holder.ask("/hold")
        wait_for(lambda: (folder / "begun").exists() and (folder / "holding").exists())
        server.send(signal.SIGHUP)
        wait_for(lambda: Client(server.port).get("/value").json["pid"] != old, limit_s=20)
        assert "old" == Client(server.port).get("/value").json["value"]
        (folder / "go").touch()
        assert f'{{"pid":{old}}}' == writer.answer()[1]
        wait_for(lambda: Client(server.port).get("/value").json["value"] == "new", limit_s=10)
        assert old in server.workers()  # it has not said its last word
        (folder / "end").touch()
        assert f'{{"pid":{old}}}' == holder.answer()[1]


def test_what_a_successor_loaded_before_it_took_over_is_not_served_when_it_was_written_meanwhile(folder: Path) -> None:
    with Started(folder, "valued:app", ENABLE_RATE_LIMITING="0", B1_REPLACEMENT="handover") as server:
        old = Client(server.port).get("/value").json["pid"]
        (folder / "is_slow").touch()
        server.send(signal.SIGHUP)
        wait_for(lambda: (folder / "warmed").exists(), limit_s=20)  # the successor has the old value
        assert 200 == Client(server.port).post("/value?to=new", {}).status
        (folder / "go").touch()
        wait_for(lambda: Client(server.port).get("/value").json["pid"] != old, limit_s=20)
        assert "new" == Client(server.port).get("/value").json["value"]
