"""Links to the session's Redis and to servers of a test's own, and an outside eye on how many clients there are."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from b1.link import Link, LinkOptions

T = TypeVar("T")
MakeLink = Callable[..., Link]


async def until(true: Callable[[], bool], *, limit_s: float = 20.0) -> float:
    """Wait until something is true; return how long it took, in seconds."""
    started_s = time.monotonic()
    while not true():
        assert time.monotonic() - started_s < limit_s, f"not within {limit_s} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - started_s


async def in_thread(work: Callable[[], T]) -> T:
    """Do what would block the loop."""
    return await asyncio.to_thread(work)


@pytest.fixture
async def make_link(tmp_path: Path) -> AsyncIterator[MakeLink]:
    """Make links whose slots are this test's own; all are closed afterwards."""
    made: list[Link] = []

    def make(url: str, **options: Any) -> Link:
        link = Link(LinkOptions(url, slots_dir=tmp_path / "slots", **options), jitter=lambda: 0.5)
        made.append(link)
        return link

    yield make
    for link in made:
        await link.aclose()


class Census:
    """Counts the server's clients of ours from outside, again and again, in a thread.

    Ours are those with our name, and those without one that have begun to shake hands; what is left is the test's own.
    """

    def __init__(self, port: int) -> None:
        self.most = 0
        self.samples = 0
        self._port = port
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Census:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                self._watch()
            except OSError:
                time.sleep(0.002)  # the server is away; so is everybody else

    def _watch(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
            connection.sendall(b"CLIENT SETNAME census\r\n")
            connection.recv(100)
            while not self._is_over.is_set():
                self.most = max(self.most, _count(connection))
                self.samples += 1
                time.sleep(0.001)


def clients_of_ours(port: int) -> int:
    """Count, once."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return _count(connection)


def _count(connection: socket.socket) -> int:
    connection.sendall(b"CLIENT LIST\r\n")
    return sum(_is_ours(line) for line in _bulk(connection).splitlines())


def _is_ours(line: bytes) -> bool:
    words = line.split()
    has_no_name = b"name=" in words
    return any(word.startswith(b"name=b1:") for word in words) or (
        has_no_name and (b"cmd=hello" in words or b"resp=3" in words)
    )


def _bulk(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n" not in data:
        data += _some(connection)
    head, _, rest = data.partition(b"\r\n")
    while len(rest) < int(head[1:]) + 2:
        rest += _some(connection)
    return rest


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("closed")
    return data
