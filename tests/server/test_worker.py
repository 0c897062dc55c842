"""One worker that serves, whatever the environment asks for and whatever happens to it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.server.running import APP, Running, read_all, wait_for

pytestmark = pytest.mark.real

PIECE = b"GET / HTTP/1.1\r\nHost"
DRIVERS = ("pydantic_core", "asyncpg", "hiredis", "uvloop", "httptools", "orjson")


class Lasting(NamedTuple):
    """A server that no test here ends, and two connections to it that never finish a request.

    They are as old as the server: what closes them takes ten seconds, and the other tests need not wait for it.
    """

    server: Running
    silent: socket.socket
    dripping: socket.socket


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lasting]:
    folder = tmp_path_factory.mktemp("lasting")
    with Running(folder) as server, server.wait_ready().connect() as silent, server.connect() as dripping:
        dripping.sendall(PIECE)
        yield Lasting(server, silent, dripping)


def test_one_worker_of_our_class_whatever_is_asked_for(tmp_path: Path) -> None:
    wishes = "--workers 3 --preload --max-requests 2 -k uvicorn_worker.UvicornWorker"
    with Running(tmp_path, WEB_CONCURRENCY="4", GUNICORN_CMD_ARGS=wishes) as server:
        server.wait_ready()
        assert 1 == len(server.workers())
        assert "b1.server.worker.B1Worker" in server.log
        before = server.workers()
        assert {str(before[0]).encode()} == {server.get("/")[-len(str(before[0])) :] for _ in range(5)}
        server.send(signal.SIGHUP)
        wait_for(lambda: len(server.workers()) == 1 and server.workers() != before)


def test_successors_never_number_more_than_one(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        [before] = server.wait_ready().workers()
        most = 0
        for _ in range(5):
            server.send(signal.SIGTTIN)
            time.sleep(0.05)
            most = max(most, len(server.workers()))
        wait_for(lambda: len(server.workers()) == 1 and server.workers() != [before])
        assert most <= 2
        assert 200 == server.status("/live")


def test_the_master_loads_no_framework_and_no_driver(lasting: Lasting) -> None:
    of_worker = Path(f"/proc/{lasting.server.workers()[0]}/maps").read_text()
    of_master = Path(f"/proc/{lasting.server.process.pid}/maps").read_text()
    assert "uvloop" in of_worker  # the test sees what it looks for
    assert [] == [name for name in DRIVERS if name in of_master]


def test_b1_run_serves_the_same_way(tmp_path: Path) -> None:
    with Running(tmp_path, command=("-m", "b1", "run", APP), WEB_CONCURRENCY="4") as server:
        server.wait_ready()
        assert 1 == len(server.workers())
        assert 200 == server.status("/")
        server.send(signal.SIGTERM)
        assert 0 == server.process.wait(timeout=15)


def test_a_killed_worker_is_replaced_and_its_end_is_noted(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        [worker] = server.wait_ready().workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.status("/") == 200 and worker not in server.workers())
        assert [(worker, "serving", False)] == [
            (end["pid"], end["phase"], end["timed_out"]) for end in server.endings()
        ]


def test_a_worker_that_blocks_is_killed_and_says_where_it_stood(tmp_path: Path) -> None:
    with Running(tmp_path, GUNICORN_CMD_ARGS="--timeout 2") as server:
        [worker] = server.wait_ready().workers()
        with server.connect() as connection:
            connection.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: server.endings())
        assert [(worker, True)] == [(end["pid"], end["timed_out"]) for end in server.endings()]
        assert "tiny.py" in server.log
        wait_for(lambda: server.status("/") == 200)


def test_a_reload_under_kept_connections_answers_every_request(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        before = server.wait_ready().workers()
        results: list[int | Exception] = []
        is_over = threading.Event()
        clients = [threading.Thread(target=_call, args=(server.port, results, is_over)) for _ in range(4)]
        for client in clients:
            client.start()
        wait_for(lambda: len(results) > 50)
        server.send(signal.SIGHUP)
        wait_for(lambda: server.events("lifespan.shutdown") == 1 and server.events("lifespan.startup") == 2)
        seen = len(results)
        wait_for(lambda: len(results) > seen + 50)
        is_over.set()
        for client in clients:
            client.join()
        assert before != server.workers()
        assert {200} == set(results)


def _call(port: int, results: list[int | Exception], is_over: threading.Event) -> None:
    """Use one connection until its answer says that it ends, as a well-behaved client does."""
    while not is_over.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            while not is_over.is_set():
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                results.append(answer.status)
                if answer.will_close:
                    break
        except (OSError, http.client.HTTPException) as error:
            results.append(error)
        connection.close()


def test_ten_thousand_headers_and_a_megabyte_in_one_are_refused(lasting: Lasting) -> None:
    attacks = [
        b"".join(b"A%d: b\r\n" % number for number in range(10_000)) + b"\r\n",
        b"Long: " + b"x" * 1_000_000 + b"\r\n\r\n",
    ]
    for attack in attacks:
        with lasting.server.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + attack)
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 431 "), answer[:100]
        assert b"HEADERS_TOO_LARGE" in answer
    assert 200 == lasting.server.status("/")


def test_a_header_without_end_is_cut_off_and_not_collected(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        [worker] = server.wait_ready().workers()
        before_kib = _peak_kib(worker)
        sent = 0
        with server.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nLong: ")
            try:
                while sent < 200_000_000:
                    connection.sendall(b"x" * 1_000_000)
                    sent += 1_000_000
            except OSError:
                pass
        assert sent < 100_000_000
        assert _peak_kib(worker) - before_kib < 10_000


def test_connections_that_drip_or_say_nothing_are_closed(lasting: Lasting) -> None:
    assert b"" == read_all(lasting.silent)
    assert b"" == read_all(lasting.dripping)
    # A line in ten seconds names one reason; which one it is depends on what else was refused meanwhile.
    wait_for(lambda: "requests were refused while they arrived" in lasting.server.log)
    assert 200 == lasting.server.status("/")


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
