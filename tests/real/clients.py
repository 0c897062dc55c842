"""Counts the clients of a Redis from outside, as CLIENT LIST sees them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers import RedisServer

_SAMPLE_S = 0.003


class Clients:
    """What was seen so far; our own connection is not counted."""

    def __init__(self) -> None:
        self.highest = 0
        self.latest = 0
        self.samples = 0


@contextmanager
def clients(server: RedisServer) -> Iterator[Clients]:
    """Sample CLIENT LIST every few milliseconds while the block runs."""
    seen = Clients()
    ready, stop = threading.Event(), threading.Event()

    def sample() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            reader = connection.makefile("rb")
            while not stop.wait(_SAMPLE_S):
                connection.sendall(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n")
                listed = reader.read(int(reader.readline()[1:]) + 2)
                seen.latest = len(listed.splitlines()) - 2  # ours, and the empty line at the end
                seen.highest = max(seen.highest, seen.latest)
                seen.samples += 1
                ready.set()

    thread = threading.Thread(target=sample, name="clients")
    thread.start()
    try:
        if not ready.wait(10):
            raise TimeoutError("Redis does not answer CLIENT LIST")
        yield seen
    finally:
        stop.set()
        thread.join()
