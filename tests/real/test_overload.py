"""Four times as much as one core can do, open-loop, and clients that only hold places. Counts and states, no durations."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.real.server import Started
from tests.server.running import ROOT, read_all, wait_for

pytestmark = pytest.mark.real

RATE, SECONDS = 400, 2.0  # the route holds the loop for 10 ms: at most 100 a second
PATIENCE_S = 20.0  # of each client; a machine that others use is slow, and nobody may be left without an answer
SLOW_BODIES = 60


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with Started(tmp_path_factory.mktemp("heavy"), "tests.real.heavy:app", ENABLE_RATE_LIMITING="0") as server:
        yield server


def test_everybody_is_answered_and_every_probe_with_200(heavy: Started) -> None:
    seen = load(heavy, "--fresh", "--probe", "/live", "--probe", "/ready")
    assert {"200", "503"} == set(seen["statuses"])
    assert RATE * SECONDS == sum(seen["statuses"].values())
    assert seen["probes"]["asked"] > 0
    assert 0 == seen["probes"]["failed"]
    wait_for(lambda: heavy.status("/compute") == 200)


def test_clients_that_come_back_at_once_leave_no_trace(heavy: Started) -> None:
    seen = load(heavy, "--retries", "3")
    assert {"200", "503"} == set(seen["statuses"])
    wait_for(lambda: [heavy.status("/compute") for _ in range(20)] == [200] * 20)


def test_a_refusal_says_when_to_come_back(heavy: Started) -> None:
    with ExitStack() as crowd:
        connections = [crowd.enter_context(heavy.connect()) for _ in range(200)]
        for connection in connections:
            connection.sendall(b"GET /compute HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = [read_all(connection) for connection in connections]
    refused = [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200 ")]
    assert refused
    assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
    assert all(b"\r\nretry-after: " in answer.lower() and b'"code":"OVERLOADED"' in answer for answer in refused)


def test_slow_bodies_hold_no_place(heavy: Started) -> None:
    with ExitStack() as slow:
        for _ in range(SLOW_BODIES):
            connection = slow.enter_context(socket.create_connection(("127.0.0.1", heavy.port)))
            connection.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        # Sooner than the 30 s after which their requests end of themselves.
        wait_for(lambda: [heavy.status("/wait") for _ in range(5)] == [200] * 5, limit_s=25)


def load(server: Started, *words: str) -> dict[str, Any]:
    """Run the benchmarks' load against the route that computes."""
    command = [sys.executable, "-m", "measuring.open_loop", str(server.port), str(RATE), str(SECONDS), "/compute"]
    done = subprocess.run(
        [*command, "--timeout", str(PATIENCE_S), *words],
        cwd=ROOT / "benchmarks",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
