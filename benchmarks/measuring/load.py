"""A small, bounded load: a fixed number of GETs over a few keep-alive connections, on loopback, every answer checked.

It is closed (each connection sends when its last answer came), which is wrong for latency and right for CPU per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import cast

CONNECTIONS = 4
ANSWER_LIMIT_S = 60.0


class UnexpectedAnswer(Exception):
    """A contender did not answer as it should; the measurement would be of something else."""


def get_request(path: str, headers: dict[str, str]) -> bytes:
    """Return a whole request."""
    lines = [f"GET {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def run_load(port: int, requests: Sequence[bytes], count: int, proof: bytes = b"") -> bytes:
    """Send `count` requests, taking `requests` in turn, and return the last answer's head.

    Args:
        proof: what the head of every answer must contain, so that a contender cannot skip its work.

    Raises:
        UnexpectedAnswer: a status other than 200, a head without `proof`, or a closed connection.
        TimeoutError: it took longer than `ANSWER_LIMIT_S`.
    """
    loop = asyncio.get_running_loop()
    turns = iter([requests[number % len(requests)] for number in range(count)])
    connections = []
    for _ in range(min(CONNECTIONS, count)):
        _, connection = await loop.create_connection(lambda: _Connection(turns, proof), "127.0.0.1", port)
        connections.append(connection)
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            for connection in connections:
                connection.begin()
            await asyncio.gather(*(connection.over for connection in connections))
    finally:
        for connection in connections:
            connection.close()
    return connections[0].head


class _Connection(asyncio.Protocol):
    def __init__(self, turns: Iterator[bytes], proof: bytes) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.head = b""
        self._turns = turns
        self._proof = proof
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is none of asyncio's

    def begin(self) -> None:
        """Send the next request, or be done."""
        request = next(self._turns, None)
        if request is None:
            self.over.set_result(None)
        elif self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < _content_length(head):
            return
        self._received = b""
        self.head = head
        if not head.startswith(b"HTTP/1.1 200") or self._proof not in head.lower():
            self._fail(f"expected 200 with {self._proof!r}, got {head.decode('latin-1')!r}")
        else:
            self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc!r}")

    def _fail(self, reason: str) -> None:
        if not self.over.done():
            self.over.set_exception(UnexpectedAnswer(reason))


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0
