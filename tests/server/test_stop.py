"""Every way to end: the request in work is answered, the application's shutdown runs once, the exit code is 0."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.server.running import Running, read_all, wait_for

pytestmark = pytest.mark.real

# The platform's limit where nobody set another one.
APP_SERVICE_STOP_S = 5.0


@pytest.mark.parametrize("to_group", [False, True], ids=["master", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_each_signal_ends_with_one_shutdown(number: signal.Signals, to_group: bool, tmp_path: Path) -> None:
    born_s = time.monotonic()
    with Running(tmp_path) as server:
        server.wait_ready()
        start_s = time.monotonic() - born_s
        with server.connect() as idle, server.connect() as busy:
            idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            idle.recv(65536)
            busy.sendall(b"GET /slow?0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.2)  # until it has surely begun; if not, it is answered all the same
            begun_s = time.monotonic()
            server.send(number, to_group=to_group)
            answer = read_all(busy)
        assert 0 == server.process.wait(timeout=30), server.log
        assert answer.startswith(b"HTTP/1.1 200"), server.log
        assert b"connection: close" in answer
        assert (1, 1) == (server.events("lifespan.startup"), server.events("lifespan.shutdown"))
        assert ["stopped"] == [ending["phase"] for ending in server.endings()]
        assert "Traceback" not in server.log
        # A stop is less work than a start: where that took long, the machine has others to serve.
        assert time.monotonic() - begun_s < max(APP_SERVICE_STOP_S, 2 * start_s)


def test_a_request_that_would_never_end_is_cancelled_and_the_shutdown_still_runs(tmp_path: Path) -> None:
    with Running(tmp_path, GUNICORN_CMD_ARGS="--graceful-timeout 4") as server:
        with server.wait_ready().connect() as busy:
            busy.sendall(b"GET /slow?60 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.2)
            server.send(signal.SIGTERM)
            assert 0 == server.process.wait(timeout=30)
        assert 1 == server.events("lifespan.shutdown")
        assert "requests are cancelled" in server.log


def test_a_second_signal_of_another_kind_hurries_and_the_shutdown_still_runs(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        with server.wait_ready().connect() as busy:
            busy.sendall(b"GET /slow?60 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.2)
            server.send(signal.SIGTERM)
            time.sleep(0.3)
            server.send(signal.SIGQUIT)
            assert 0 == server.process.wait(timeout=15)
        assert 1 == server.events("lifespan.shutdown")
        assert ["stopped"] == [ending["phase"] for ending in server.endings()]


def test_a_stream_learns_that_the_server_stops(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        with server.wait_ready().connect() as stream:
            stream.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: b"hello" in stream.recv(65536))
            server.send(signal.SIGTERM)
            assert b"farewell" in read_all(stream)
        assert 0 == server.process.wait(timeout=15)


def test_a_thread_that_does_not_end_does_not_hold_the_process(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        server.wait_ready().get("/thread")
        server.send(signal.SIGTERM)
        assert 0 == server.process.wait(timeout=15)
        assert "tiny-stuck" in server.log
        assert 1 == server.events("lifespan.shutdown")


def test_a_stop_while_the_application_loads_is_immediate(tmp_path: Path) -> None:
    with Running(tmp_path, TINY_START="slow") as server:
        wait_for(lambda: "Booting worker" in server.log)
        server.send(signal.SIGQUIT)
        assert 0 == server.process.wait(timeout=15)
        assert 0 == server.events("lifespan")


def test_an_application_whose_start_fails_ends_the_server(tmp_path: Path) -> None:
    with Running(tmp_path, TINY_START="fail") as server:
        assert 3 == server.process.wait(timeout=30)
        assert "as asked for" in server.log
