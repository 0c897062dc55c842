"""Clients that send half a body and wait: they lose their place in time, and everybody else is served."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.server import Started
from tests.server.running import wait_for

pytestmark = pytest.mark.real

PLACES = 200  # requests in work at once, by the plan


@pytest.fixture
def pantry(tmp_path: Path, pantry_url: str) -> Iterator[Started]:
    with Started(tmp_path, DATABASE_URL=pantry_url, B1_LIMIT_SCALE="1000") as server:
        yield server


@pytest.mark.parametrize("path", ["/v1/finance/expenses", "/v1/entities", "/auth/login"])
def test_half_sent_bodies_hold_no_place_for_ever(pantry: Started, path: str) -> None:
    user = pantry.client.log_in()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {user.headers['Authorization']}\r\nIdempotency-Key: k\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    ).encode()
    with ExitStack() as slow:
        for _ in range(PLACES):
            connection = slow.enter_context(socket.create_connection(("127.0.0.1", pantry.port)))
            connection.sendall(head)
        wait_for(lambda: user.get("/v1/finance/balance").status == 200, limit_s=45)


def test_a_refused_body_is_not_swallowed_for_ever(pantry: Started) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", pantry.port), timeout=30) as connection:
        connection.sendall(b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        try:
            while sent < 200_000_000:
                connection.sendall(b"x" * 1_000_000)
                sent += 1_000_000
        except OSError:
            pass
    assert sent < 200_000_000
