"""A successor is killed before it serves: what its predecessor left is there for the one that comes instead."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from b1.clock import SystemClock
from b1.identity import Tokens
from b1.settings import Secret
from tests.real.client import Client
from tests.real.server import SECRET
from tests.real.steady import Changing, Talk
from tests.server.running import wait_for

pytestmark = pytest.mark.real


def signed_in(port: int) -> Client:
    token = Tokens(Secret(SECRET), SystemClock()).issue("ann", {"org": "1", "tier": "pro"}, ttl_s=600)
    return Client(port, token)


def test_a_key_is_replayed_and_a_connection_goes_on_although_a_serial_successor_was_killed(tmp_path: Path) -> None:
    variables = {"AUTH_JWT_SECRET": SECRET, "B1_REPLACEMENT": "serial"}
    with Changing(tmp_path, **variables) as server, Talk(server.wait_ready().port) as idle:
        idle.ask("/pid")
        old = int(idle.answer()[1])
        first = signed_in(server.port).post("/orders", {}, Idempotency_Key="first")
        server.set("mood", "wait")
        server.send(signal.SIGHUP)
        for number in (2, 3):
            killed = server.wait_loading(number)
            wait_for(lambda: old not in server.workers())
            os.kill(killed, signal.SIGKILL)
        server.set("mood", "")
        server.wait_loading(4)
        new = server.wait_alone(but=[old])
        again = signed_in(server.port).post("/orders", {}, Idempotency_Key="first")
        assert (first.body, "true") == (again.body, again.headers.get("idempotent-replayed"))
        idle.ask("/pid")
        assert (200, str(new)) == idle.answer()


def test_a_predecessor_that_had_begun_to_end_gets_another_successor_at_once(tmp_path: Path) -> None:
    """It drains, and its successor is killed: nobody would accept until it is done."""
    with Changing(tmp_path, B1_REPLACEMENT="handover") as server, Talk(server.wait_ready().port) as stream:
        [old] = server.workers()
        stream.ask("/stream")
        stream.wait_begun()
        server.send(signal.SIGHUP)
        wait_for(lambda: server.status("/pid") == 200 and int(server.body("/pid")) != old)
        os.kill(server.loading()[1], signal.SIGKILL)
        wait_for(lambda: len(server.loading()) == 3 and server.body("/pid") == str(server.loading()[2]))
        assert old in server.workers()
        server.set("gate", "end")
        status, text = stream.answer()
        assert (200, "and end") == (status, text[-7:])
        server.wait_alone(but=[old])
