"""Replays operations over a few kept connections and holds every answer against what it must be.

An answer must be the entity's document, byte for byte, at a revision that is not older than the last write whose answer
was here before the read was sent. The load is closed: a connection sends when its last answer came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from measuring.load import UnexpectedAnswer

from caching.workload import ENTITIES, Documents, Operation, head_of

LIMIT_S = 120.0


@dataclass(slots=True)
class Replayed:
    """What one run of operations gave; times in seconds."""

    hits_s: list[float] = field(default_factory=list)
    misses_s: list[float] = field(default_factory=list)
    writes_s: list[float] = field(default_factory=list)
    stale: int = 0
    took_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        reads = len(self.hits_s) + len(self.misses_s)
        return len(self.hits_s) / reads if reads else 0.0


class Replay:
    """One server, one way of answering.

    Args:
        way: the first part of the path.
        headers: of the request, by organisation less one.
        hit: what the head of an answer from the cache has, in lower case; `loaded`: what the others have. Empty: any.
    """

    def __init__(self, documents: Documents, headers: Sequence[bytes], way: str, *, hit: bytes, loaded: bytes) -> None:
        self.tails = [documents.tail(entity) for entity in range(ENTITIES)]
        self.revisions = [0] * ENTITIES  # of writes that were answered
        self.hit, self.loaded = hit, loaded
        self.answered: Callable[[int, int, bytes], None] = _nothing
        self._headers = headers
        self._way = way.encode()

    async def run(self, port: int, operations: Sequence[Operation], connections: int) -> Replayed:
        """Run them all.

        Raises:
            UnexpectedAnswer: an answer that is not the entity's document.
            TimeoutError: it took longer than `LIMIT_S`.
        """
        loop, turns, result = asyncio.get_running_loop(), iter(operations), Replayed()
        open_ones: list[_Connection] = []
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(self, turns, result), "127.0.0.1", port)
            open_ones.append(connection)
        begun_s = time.perf_counter()
        try:
            async with asyncio.timeout(LIMIT_S):
                for connection in open_ones:
                    connection.begin()
                await asyncio.gather(*(connection.over for connection in open_ones))
        finally:
            for connection in open_ones:
                connection.close()
        result.took_s = time.perf_counter() - begun_s
        return result

    def request(self, operation: Operation) -> bytes:
        entity = operation.entity
        verb = b"PUT" if operation.is_write else b"GET"
        more = b"content-length: 0\r\n" if operation.is_write else b""
        line = b"%b /%b/%d HTTP/1.1\r\nhost: 127.0.0.1\r\n%b" % (verb, self._way, entity, more)
        return line + self._headers[entity % len(self._headers)]

    def is_hit(self, head: bytes) -> bool:
        """Say whether an answer came from the cache.

        Raises:
            UnexpectedAnswer: it says neither.
        """
        if self.hit:
            if self.hit not in head and self.loaded not in head:
                raise UnexpectedAnswer(f"neither hit nor loaded: {head!r}")
            return self.hit in head
        return bool(self.loaded) and self.loaded not in head


def _nothing(entity: int, revision: int, tail: bytes) -> None:
    """Nobody asks what was answered."""


class _Connection(asyncio.Protocol):
    def __init__(self, replay: Replay, turns: Iterator[Operation], result: Replayed) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._replay = replay
        self._turns = turns
        self._result = result
        self._parts: list[bytes] = []
        self._held = self._wanted = 0
        self._operation: Operation | None = None
        self._least = 0
        self._sent_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        """Send the next request, or be done."""
        operation = self._operation = next(self._turns, None)
        if operation is None:
            self.over.set_result(None)
        elif self._transport is not None:
            self._least = self._replay.revisions[operation.entity]
            request = self._replay.request(operation)
            self._sent_s = time.perf_counter()
            self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            return
        answer = b"".join(self._parts)
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        self._wanted = len(head) + 4 + length
        if len(body) < length:
            return
        took_s = time.perf_counter() - self._sent_s
        self._parts, self._held, self._wanted = [], 0, 0
        try:
            self._take(head, body, took_s)
        except (UnexpectedAnswer, ValueError) as error:
            self._fail(str(error))
        else:
            self.begin()

    def _take(self, head: bytes, body: bytes, took_s: float) -> None:
        operation, replay, result = self._operation, self._replay, self._result
        assert operation is not None
        if not head.startswith(b"http/1.1 200"):
            raise UnexpectedAnswer(f"{operation}: {head!r} {body[:200]!r}")
        entity = operation.entity
        if operation.is_write:
            replay.revisions[entity] = max(replay.revisions[entity], int(body))
            result.writes_s.append(took_s)
            return
        revision = int(body[body.index(b'"revision":') + 11 : body.index(b',"lines"')])
        expected = head_of(entity, revision)
        if not body.startswith(expected) or body[len(expected) :] != replay.tails[entity]:
            raise UnexpectedAnswer(f"{operation} answered {body[:200]!r}")
        replay.answered(entity, revision, replay.tails[entity])
        result.stale += revision < self._least
        (result.hits_s if replay.is_hit(head) else result.misses_s).append(took_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc!r}")

    def _fail(self, reason: str) -> None:
        if not self.over.done():
            self.over.set_exception(UnexpectedAnswer(reason))
