"""A connection without a network: a transport that remembers, a clock for timers, and an application to look into."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from b1.clock import ManualClock
from b1.server.heads import HeadLimits
from b1.server.pace import PaceLimits
from b1.server.protocol import B1Protocol
from b1.server.refusals import Refusals
from b1.types import Receive, Scope, Send

LIMITS = HeadLimits(limit_bytes=2000, limit_fields=10, timeout_s=10.0)
PACE = PaceLimits(least_bytes_per_s=100.0, grace_s=10.0)


class Timer:
    """What `call_later` returns."""

    def __init__(self, due_s: float, call: Callable[[], None]) -> None:
        self.due_s = due_s
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class ManualLoop:
    """The running loop, except that its timers fire when `advance` says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> Timer:
        timer = Timer(self.now_s + delay_s, lambda: call(*args))
        self.timers.append(timer)
        return timer

    def create_task(self, work: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work)

    @property
    def pending(self) -> list[float]:
        return [timer.due_s - self.now_s for timer in self.timers if not timer.is_cancelled]

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        for timer in [timer for timer in self.timers if timer.due_s <= self.now_s]:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.call()


class FakeTransport:
    """Keeps what was written; closing tells the protocol, as a real one does."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.ended = ""
        self.has_eof = False
        self.is_paused = False
        self.unsent_bytes = 0  # that the client has not read
        self.has_closed = False
        self.protocol: Any = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1234), "sockname": ("192.0.2.2", 80)}.get(name, default)

    def write(self, data: bytes) -> None:
        assert not self.has_eof, "written after the end"
        assert not self.ended, "written after close"
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def is_closing(self) -> bool:
        return bool(self.ended) or self.has_closed

    def close(self) -> None:
        self.has_closed = True
        if not self.unsent_bytes:
            self._end("close")

    def abort(self) -> None:
        self._end("abort")

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def _end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Echo:
    """Answers with path and body; keeps the scopes it saw; waits at `gate` if that is closed.

    `reads_first`: wait after the body was read, else before.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.messages: list[str] = []
        self.reads_first = True
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = b""
        if not self.reads_first:
            await self.gate.wait()
        while True:
            message = await receive()
            self.messages.append(message["type"])
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await self.gate.wait()
        answer = scope["path"].encode() + b" " + body
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class Wire:
    """One connection, fed by hand."""

    def __init__(self, *, limits: HeadLimits = LIMITS) -> None:
        self.app = Echo()
        self.loop = ManualLoop()
        self.transport = FakeTransport()
        self.clock = ManualClock()
        self.refusals = Refusals(self.clock)
        config = Config(self.app, log_config=None, lifespan="off", ws="none", proxy_headers=False)
        config.load()
        self.state = ServerState()
        self.protocol = B1Protocol(
            config,
            self.state,
            {},
            self.loop,  # type: ignore[arg-type]
            limits=limits,
            pace=PACE,
            refusals=self.refusals,
        )
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    async def feed(self, *pieces: bytes) -> bytes:
        """Deliver the pieces, let everything run that can, and return all that was written so far."""
        for piece in pieces:
            if self.transport.ended:
                break
            self.protocol.data_received(piece)
            await self.settle()
        return bytes(self.transport.written)

    async def settle(self) -> None:
        """Let tasks run until they wait for something that only a test can give."""
        for _ in range(12):
            await asyncio.sleep(0)

    @property
    def paths(self) -> list[str]:
        return [scope["path"] for scope in self.app.scopes]

    def answers(self) -> list[tuple[int, bytes]]:
        """Read what was written as whole answers: (status, body); raises when it is anything else."""
        found, rest = [], bytes(self.transport.written)
        while rest:
            head, separator, rest = rest.partition(b"\r\n\r\n")
            assert separator
            lines = head.split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.lower().startswith(b"content-length:"))
            assert len(rest) >= length
            found.append((int(lines[0].split()[1]), rest[:length]))
            rest = rest[length:]
        return found

    def problem(self) -> tuple[int, str]:
        """Return status and code of the one answer, which is a problem document."""
        [(status, body)] = self.answers()
        assert b"application/problem+json" in self.transport.written
        assert b"connection: close" in self.transport.written
        members = json.loads(body)
        assert status == members["status"]
        return status, members["code"]
