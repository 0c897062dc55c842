"""A worker is replaced, and no client sees it: not one that waits, asks, streams, sends slowly, or asks twice at once."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import Running, read_all, wait_for

pytestmark = pytest.mark.real

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


WAYS = ("handover", "serial")


@pytest.fixture(scope="module", params=WAYS)
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp(request.param), B1_REPLACEMENT=request.param) as running:
        yield running.wait_ready()


@pytest.fixture
def server(lasting: Running) -> Running:
    """The server of the tests that end with one settled worker."""
    wait_for(lambda: lasting.status("/") == 200 and len(lasting.workers()) == 1)
    return lasting


@pytest.fixture(params=WAYS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """A server whose end, or whose unsettled workers, are nobody else's."""
    with Running(tmp_path, B1_REPLACEMENT=request.param) as running:
        yield running.wait_ready()


def ask(connection: socket.socket, request: bytes = REQUEST) -> tuple[bytes, int]:
    """Ask on a kept connection; return the answer's head and the pid of who answered."""
    connection.sendall(request)
    return answer_of(connection)


def answer_of(connection: socket.socket) -> tuple[bytes, int]:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(1)
        assert piece, received
        received += piece
    head = received.lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    assert head.startswith(b"http/1.1 200"), head
    return head, int(body)


def replace(server: Running, number: signal.Signals = signal.SIGHUP) -> int:
    """Replace the worker and wait until its successor is alone; return that one's pid."""
    [before] = server.workers()
    server.send(number)
    wait_for(lambda: len(server.workers()) == 1 and server.workers() != [before])
    return server.workers()[0]


def test_idle_connections_go_on_with_the_successor(server: Running) -> None:
    with server.connect() as used, server.connect() as fresh:
        _, first = ask(used)
        successor = replace(server)
        head, second = ask(used)
        assert (successor, successor) == (second, ask(fresh)[1])
        assert first != second
        assert b"connection: close" not in head
    assert f"predecessor={first}" in server.log


def test_a_request_in_work_is_answered_by_whom_it_reached_and_its_connection_goes_on(server: Running) -> None:
    [before] = server.workers()
    with server.connect() as connection:
        connection.sendall(b"GET /slow?0.8 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        server.send(signal.SIGHUP)
        assert before == answer_of(connection)[1]
        wait_for(lambda: server.workers() != [before] and len(server.workers()) == 1)
        assert server.workers() == [ask(connection)[1]]


def test_requests_in_a_row_are_answered_in_order_across_the_change(server: Running) -> None:
    [before] = server.workers()
    with server.connect() as connection:
        connection.sendall(b"GET /slow?0.5 HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST * 5)
        time.sleep(0.1)
        server.send(signal.SIGHUP)
        assert [before] * 6 == [answer_of(connection)[1] for _ in range(6)]
        wait_for(lambda: server.workers() != [before] and len(server.workers()) == 1)
        assert server.workers() == [ask(connection)[1]]


def test_a_request_that_comes_in_pieces_is_finished_where_it_began(server: Running) -> None:
    [before] = server.workers()
    with server.connect() as connection:
        connection.sendall(REQUEST[:20])
        time.sleep(0.1)
        server.send(signal.SIGHUP)
        time.sleep(0.3)
        assert before == ask(connection, REQUEST[20:])[1]
        wait_for(lambda: server.workers() != [before] and len(server.workers()) == 1)


def test_a_stream_says_its_farewell(server: Running) -> None:
    with server.connect() as stream:
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: b"hello" in stream.recv(65536))
        replace(server)
        assert b"farewell" in read_all(stream)


def test_replacements_in_quick_succession_end_with_one_worker(own_server: Running) -> None:
    [before] = own_server.workers()
    with own_server.connect() as connection:
        for _ in range(4):
            own_server.send(signal.SIGHUP)
            time.sleep(0.15)
        ask(connection)
        wait_for(lambda: len(own_server.workers()) == 1 and own_server.workers() != [before])
        time.sleep(0.3)  # a replacement that was put off would begin now
        wait_for(lambda: len(own_server.workers()) == 1)
        assert own_server.workers() == [ask(connection)[1]]
    assert own_server.process.poll() is None


def test_a_stop_in_the_middle_of_a_replacement_ends_everything(own_server: Running) -> None:
    own_server.send(signal.SIGHUP)
    time.sleep(0.15)
    own_server.send(signal.SIGTERM)
    assert 0 == own_server.process.wait(timeout=15)
    assert [] == own_server.workers() if Path(f"/proc/{own_server.process.pid}").exists() else True


def test_a_killed_predecessor_leaves_its_successor_serving(own_server: Running) -> None:
    [before] = own_server.workers()
    own_server.send(signal.SIGHUP)
    wait_for(lambda: len(own_server.workers()) == 2 or before not in own_server.workers())
    if before in own_server.workers():
        os.kill(before, signal.SIGKILL)
    wait_for(lambda: len(own_server.workers()) == 1 and own_server.workers() != [before])
    wait_for(lambda: own_server.status("/") == 200)


@pytest.mark.parametrize("how", ["fail", "raise"])
def test_a_successor_that_does_not_start_changes_nothing(how: str, tmp_path: Path) -> None:
    switch = tmp_path / "start"
    switch.write_text("")
    with Running(tmp_path, B1_REPLACEMENT="handover", TINY_START_FILE=str(switch)) as server:
        [before] = server.wait_ready().workers()
        with server.connect() as connection:
            answered = {ask(connection)[1]}
            switch.write_text(how)
            for _ in range(2):
                failures = server.log.count("goes on.")
                server.send(signal.SIGHUP)

                def has_failed(failures: int = failures) -> bool:
                    answered.add(ask(connection)[1])  # silent for as long as a busy machine needs, it would be closed
                    return server.log.count("goes on.") > failures and server.workers() == [before]

                wait_for(has_failed)
            assert {before} == answered
            switch.write_text("")
            assert replace(server) == ask(connection)[1]


def test_a_worker_at_the_age_that_somebody_wished_gets_a_successor(tmp_path: Path) -> None:
    with Running(tmp_path, GUNICORN_CMD_ARGS="--max-requests 50 --max-requests-jitter 5") as server:
        server.wait_ready()
        answered: set[int] = set()
        with server.connect() as connection:
            end_s = time.monotonic() + 20
            while len(answered) < 3 and time.monotonic() < end_s:
                answered.add(ask(connection)[1])
        assert 3 == len(answered)
        assert "mode=handover reason=max_requests" in server.log
        assert "put back" not in server.log.replace("put back: workers, worker_class, preload_app", "")


def test_a_person_may_ask_for_a_successor(tmp_path: Path) -> None:
    with Running(tmp_path) as server, server.wait_ready().connect() as connection:
        _, before = ask(connection)
        assert before != replace(server, signal.SIGTTIN)
        assert before != ask(connection)[1]
