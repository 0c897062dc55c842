"""One HTTP/1.1 connection of a client that sees what happened to it; cheap, and knows no more HTTP than it needs."""

from __future__ import annotations

import asyncio
import re
import select
from dataclasses import dataclass
from typing import Any, cast

from replacing.application import WORKER

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_WORKER = re.compile(rb"\r\n%b: *(\d+)" % WORKER.encode())
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        closes: it said ``Connection: close``.
        worker: the pid that it named, 0 for none.
    """

    status: int
    closes: bool
    worker: int
    body: bytes


class Gone(Exception):
    """The connection ended before a whole answer.

    Attributes:
        was_begun: some of the answer had come.
    """

    def __init__(self, was_begun: bool, cause: Exception | None) -> None:
        super().__init__(f"{'cut' if was_begun else 'no byte'}, {cause!r}")
        self.was_begun = was_begun


class Wire(asyncio.Protocol):
    """One connection; one task at a time reads from it."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._is_over = False
        self._cause: Exception | None = None
        self._change: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is none of asyncio's
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._wake()

    def eof_received(self) -> bool:
        self._is_over = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._cause = self._cause or exc
        self._wake()

    @property
    def is_dead(self) -> bool:
        """Whether the server has ended it, as far as the kernel knows: what a careful client looks at before it sends."""
        return self._is_over or bool(self._poll.poll(0))

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._is_over:
            self._transport.write(data)

    async def answer(self) -> Answer:
        """Return the next whole answer.

        Raises:
            Gone: the connection ended before.
        """
        while (answer := _take(self._received)) is None:
            if self._is_over:
                raise Gone(bool(self._received), self._cause)
            self._change = asyncio.get_running_loop().create_future()
            await self._change
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)


def _take(received: bytearray) -> Answer | None:
    """Take a whole answer out of the bytes, if there is one."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    if length := _LENGTH.search(head):
        total = end + 4 + int(length[1])
        if len(received) < total:
            return None
    else:  # chunked; no body of ours contains the end mark
        last = received.find(_LAST_CHUNK, end + 2)
        if last < 0:
            return None
        total = last + len(_LAST_CHUNK)
    worker = _WORKER.search(head)
    answer = Answer(
        int(head[9:12]),
        b"\r\nconnection: close" in head,
        int(worker[1]) if worker else 0,
        bytes(received[end + 4 : total]),
    )
    del received[:total]
    return answer


async def connect(port: int, source: str | None = None) -> Wire:
    """Open a connection, from `source` when given.

    Raises:
        OSError: nobody listens.
    """
    more: dict[str, Any] = {} if source is None else {"local_addr": (source, 0)}
    _, wire = await asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port, **more)
    return wire
