"""The clients: greedy and patient ones, fresh connections, pipelines, uploads, streams, and those who rest around a signal.

Each behaves as HTTP/1.1 wants it: it opens another connection when an answer says ``Connection: close``, and never sends
a request twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from replacing.application import STREAM_PIECES
from replacing.tally import Overall, Tally
from replacing.wire import Answer, Gone, Wire, connect

REQUEST_LIMIT_S = 30.0
RECONNECT_EVERY_S = 0.02
BURST = 8
# Less than the server can do: an overloaded one refuses, and that is another question.
THINK_S = 0.012
UPLOAD_BYTES = 1024 * 1024
UPLOAD_PIECES = 16
UPLOAD_EVERY_S = 1.0 / UPLOAD_PIECES
FAREWELL = b"event: farewell"
# The longest rest is below every server's keep-alive time, so that a connection is not ended for its age.
REST_S = (0.05, 2.0)


def get(path: str, *fields: str) -> bytes:
    """Return a whole GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


FAST, ONCE, QUERY, STREAM, ENDLESS = (
    get("/fast"),
    get("/fast", "Connection: close"),
    get("/query"),
    get("/stream"),
    get("/endless"),
)
UPLOAD = f"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n".encode()


@dataclass(slots=True)
class Load:
    """What all clients share.

    Attributes:
        mark_s: the moment of the next or the last signal, monotonic, as it was announced.
        marked: set at each announcement, and replaced by a new event.
    """

    port: int
    overall: Overall = field(default_factory=Overall)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    is_over: bool = False
    mark_s: float = 0.0
    marked: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self, mark_s: float) -> None:
        """Tell those who rest when the next signal will be."""
        self.mark_s = mark_s
        self.marked.set()
        self.marked = asyncio.Event()


class Client:
    """One client of one kind."""

    def __init__(self, load: Load, kind: str, number: int) -> None:
        self.load = load
        self.kind = kind
        self.tally = load.tallies[kind]
        self.dice = random.Random(f"{kind}-{number}")
        self.source = f"127.0.{(sum(kind.encode()) % 200) + 1}.{number + 1}"  # each has its own range of ports

    async def open(self) -> Wire | None:
        """Open a connection; a refusal counts once however long it takes. None when the load is over meanwhile."""
        is_refused = False
        while not self.load.is_over:
            try:
                return await connect(self.load.port, self.source)
            except OSError as error:
                if not is_refused:
                    is_refused = True
                    self.tally.refused += 1
                    self.tally.example(f"{self.kind}: {error}")
                await asyncio.sleep(RECONNECT_EVERY_S)
        return None

    async def exchange(
        self, wire: Wire, request: bytes | Callable[[], Awaitable[None]], *, count: int = 1, expected: int = 200
    ) -> Answer | None:
        """Send, wait for `count` answers, count what happened; return the last answer, None when one is missing."""
        begun_s = time.monotonic()
        answer: Answer | None = None
        received = 0
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                if isinstance(request, bytes):
                    wire.write(request)
                else:
                    await request()
                while received < count:
                    answer = await wire.answer()
                    received += 1
                    self._note(answer, begun_s, expected)
        except Gone as gone:
            self._missing(gone, count - received, is_told=answer is not None and answer.closes, begun_s=begun_s)
            return None
        except TimeoutError:
            self.tally.late += count - received
            self.tally.example(f"{self.kind}: late")
            return None
        return answer

    def _note(self, answer: Answer, begun_s: float, expected: int) -> None:
        now_s = time.monotonic()
        tally = self.tally
        if answer.status == expected:
            tally.answered += 1
        else:
            tally.wrong[answer.status] += 1
            tally.example(f"{self.kind}: status {answer.status}, {answer.body[:200]!r}")
        if not self.load.is_over and self.kind not in LONG:  # what ends later leaves pauses that are the load's own
            self.load.overall.note(now_s, answer.worker)
        tally.longest_wait_s = max(tally.longest_wait_s, now_s - begun_s)

    def _missing(self, gone: Gone, count: int, *, is_told: bool, begun_s: float) -> None:
        if gone.was_begun:
            self.tally.cut += 1
            count -= 1
        self.tally.lost += count
        self.tally.told += count * is_told
        self.tally.example(f"{self.kind}: {count} lost, {gone}, asked {time.monotonic() - begun_s:.4f} s before")


async def _keep(client: Client, request: bytes, *, count: int = 1, think_s: float = 0.0) -> None:
    """Ask again and again on one connection until it is ended."""
    load = client.load
    while not load.is_over:
        if (wire := await client.open()) is None:
            return
        while not load.is_over:
            answer = await client.exchange(wire, request, count=count)
            if answer is None or answer.closes:
                break
            if think_s:
                await asyncio.sleep(client.dice.expovariate(1 / think_s))
                if wire.is_dead:
                    client.tally.closed += 1
                    break
        wire.close()


async def greedy(client: Client) -> None:
    """Ask the moment that an answer has come."""
    await _keep(client, FAST)


async def kept(client: Client) -> None:
    """Think for some milliseconds before the next request."""
    await _keep(client, FAST, think_s=THINK_S)


async def query(client: Client) -> None:
    """Ask for what needs Postgres."""
    await _keep(client, QUERY, think_s=2 * THINK_S)


async def pipelining(client: Client) -> None:
    """Send eight requests in one piece, wait for the eight answers."""
    await _keep(client, FAST * BURST, count=BURST, think_s=5 * THINK_S)


async def fresh(client: Client) -> None:
    """Open a connection for every request."""
    while not client.load.is_over:
        if (wire := await client.open()) is None:
            return
        await client.exchange(wire, ONCE)
        wire.close()
        await asyncio.sleep(client.dice.expovariate(1 / THINK_S))


async def uploading(client: Client) -> None:
    """Send a megabyte over about a second, on a kept connection."""
    load = client.load
    wire: Wire | None = None

    async def send() -> None:
        assert wire is not None
        wire.write(UPLOAD)
        for _ in range(UPLOAD_PIECES):
            await asyncio.sleep(UPLOAD_EVERY_S)
            wire.write(b"x" * (UPLOAD_BYTES // UPLOAD_PIECES))

    while not load.is_over:
        if (wire := await client.open()) is None:
            return
        while not load.is_over:
            answer = await client.exchange(wire, send)
            if answer is not None and answer.status == 200 and answer.body != str(UPLOAD_BYTES).encode():
                client.tally.cut += 1
                client.tally.example(f"upload: {answer.body!r} bytes arrived")
            if answer is None or answer.closes or wire.is_dead:
                break
        wire.close()


async def streaming(client: Client) -> None:
    """Read streams of two seconds, one after the other on a kept connection."""
    load = client.load
    while not load.is_over:
        if (wire := await client.open()) is None:
            return
        while not load.is_over:
            answer = await client.exchange(wire, STREAM)
            if answer is not None and answer.status == 200 and answer.body.count(b"data: ") < STREAM_PIECES:
                client.tally.ended_early += 1
            if answer is None or answer.closes or wire.is_dead:
                break
        wire.close()


async def listening(client: Client) -> None:
    """Read a stream that ends only with the worker, and then with a farewell."""
    while not client.load.is_over:
        if (wire := await client.open()) is None:
            return
        task = asyncio.create_task(_listen(client, wire))
        while not client.load.is_over and not task.done():
            await asyncio.wait([task], timeout=0.1)
        if not task.done():
            task.cancel()  # the load ends, not the server
            with contextlib.suppress(asyncio.CancelledError):
                await task
        wire.close()


async def _listen(client: Client, wire: Wire) -> None:
    wire.write(ENDLESS)
    try:
        answer = await wire.answer()
    except Gone as gone:
        client.tally.cut += gone.was_begun
        client.tally.lost += not gone.was_begun
        client.tally.example(f"{client.kind}: {gone}")
        return
    if answer.status == 200 and FAREWELL in answer.body:
        client.tally.answered += 1
    elif answer.status == 200:
        client.tally.cut += 1
        client.tally.example(f"{client.kind}: an end without a farewell")
    else:
        client.tally.wrong[answer.status] += 1


async def resting(client: Client) -> None:
    """Keep a connection idle and ask at some moment around a signal, as a careful client: not on a dead connection."""
    load = client.load
    while not load.is_over:
        if (wire := await client.open()) is None:
            return
        answer = await client.exchange(wire, FAST)
        while not load.is_over and answer is not None and not answer.closes:
            await _rest(client)
            if wire.is_dead:
                client.tally.closed += 1
                break
            answer = await client.exchange(wire, FAST)
        wire.close()


async def _rest(client: Client) -> None:
    """Wait for some time, or from the announcement of a signal until some moment around it."""
    load, dice = client.load, client.dice
    marked = load.marked
    try:
        await asyncio.wait_for(marked.wait(), dice.uniform(*REST_S))
    except TimeoutError:
        return
    # As the signal arrives; when idle connections are closed, a second after it; any time until all is over.
    low_s, high_s = dice.choice([(-0.1, 0.15), (0.95, 1.2), (0.0, 3.0)])
    await asyncio.sleep(max(0.0, load.mark_s + dice.uniform(low_s, high_s) - time.monotonic()))


LONG = frozenset({"upload", "stream", "endless"})
KINDS: Mapping[str, Callable[[Client], Awaitable[None]]] = {
    "greedy": greedy,
    "kept": kept,
    "fresh": fresh,
    "pipelining": pipelining,
    "upload": uploading,
    "stream": streaming,
    "resting": resting,
    "query": query,
    "endless": listening,
}
