"""Clients that send a body, or read an answer, too slowly: given up with a reason. And those that only look like it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from b1.clock import ManualClock
from b1.server.heads import HeadLimits
from b1.server.pace import LOOKS, Pace, PaceLimits
from b1.server.protocol import B1Protocol
from b1.server.refusals import Refusals
from b1.types import Receive, Scope, Send
from tests.server.wire import PACE, Echo, Wire

LOOK_S = PACE.grace_s / LOOKS
ENOUGH = int(PACE.least_bytes_per_s * LOOK_S)
HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


def reasons(wire: Wire) -> dict[str, int]:
    return dict(wire.refusals.snapshot().by_reason)


class TestTheAllowance:
    def test_is_used_up_by_silence(self) -> None:
        pace = Pace(PaceLimits(least_bytes_per_s=100.0, grace_s=3.0))
        assert [False, False, True] == [pace.is_too_slow(1.0, 0) for _ in range(3)]

    def test_lasts_for_ever_at_the_least_pace(self) -> None:
        pace = Pace(PaceLimits(least_bytes_per_s=100.0, grace_s=3.0))
        assert not any(pace.is_too_slow(1.0, 100) for _ in range(1000))

    def test_is_never_more_than_at_the_beginning(self) -> None:
        pace = Pace(PaceLimits(least_bytes_per_s=100.0, grace_s=3.0))
        pace.is_too_slow(1.0, 10**9)
        assert [False, False, True] == [pace.is_too_slow(1.0, 0) for _ in range(3)]

    def test_is_used_up_by_half_the_pace_in_twice_the_time(self) -> None:
        pace = Pace(PaceLimits(least_bytes_per_s=100.0, grace_s=3.0))
        assert [False] * 5 + [True] == [pace.is_too_slow(1.0, 50) for _ in range(6)]


class TestBodies:
    async def test_one_that_drips_gets_408_and_is_counted(self) -> None:
        wire = Wire()
        await wire.feed(HEAD)
        for _ in range(LOOKS):
            await wire.feed(b"x")
            assert b"" == bytes(wire.transport.written)
            wire.loop.advance(LOOK_S)
        wire.loop.advance(LOOK_S)  # what the drops had earned
        await wire.settle()
        assert (408, "REQUEST_TIMEOUT") == wire.problem()
        assert {"BODY_TOO_SLOW": 1} == reasons(wire)
        assert "http.disconnect" == wire.app.messages[-1]
        wire.loop.advance(2)
        assert "abort" == wire.transport.ended

    async def test_one_that_stops_after_much_of_it_came_is_given_up_too(self) -> None:
        wire = Wire()
        await wire.feed(HEAD, b"x" * 50_000)
        for _ in range(LOOKS + 1):
            wire.loop.advance(LOOK_S)
        assert {"BODY_TOO_SLOW": 1} == reasons(wire)

    async def test_one_at_the_least_pace_is_served_however_long_it_takes(self) -> None:
        wire = Wire()
        await wire.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (100 * ENOUGH))
        for _ in range(100):
            await wire.feed(b"x" * ENOUGH)
            wire.loop.advance(LOOK_S)
        assert [200] == [status for status, _ in wire.answers()]
        assert {} == reasons(wire)

    async def test_each_body_of_a_connection_has_an_allowance_of_its_own(self) -> None:
        wire = Wire()
        for _ in range(5):
            await wire.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
            for _ in range(LOOKS - 1):
                wire.loop.advance(LOOK_S)
            await wire.feed(b"x")
        assert ([200] * 5, {}) == ([status for status, _ in wire.answers()], reasons(wire))

    async def test_one_that_we_do_not_read_has_time(self) -> None:
        wire = Wire()
        wire.app.gate.clear()
        wire.app.reads_first = False
        await wire.feed(HEAD, b"x" * 70_000)
        assert wire.transport.is_paused
        for _ in range(10 * LOOKS):
            wire.loop.advance(LOOK_S)
        assert ({}, "") == (reasons(wire), wire.transport.ended)

    async def test_one_that_waits_for_our_word_has_time(self) -> None:
        wire = Wire()
        wire.app.gate.clear()
        wire.app.reads_first = False
        await wire.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        for _ in range(10 * LOOKS):
            wire.loop.advance(LOOK_S)
        assert {} == reasons(wire)
        wire.app.gate.set()
        await wire.settle()
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == bytes(wire.transport.written)
        for _ in range(LOOKS):
            wire.loop.advance(LOOK_S)
        assert {"BODY_TOO_SLOW": 1} == reasons(wire)

    async def test_one_that_comes_at_once_starts_no_timer(self) -> None:
        wire = Wire()
        wire.app.gate.clear()
        await wire.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        assert [] == wire.loop.pending

    async def test_the_timer_ends_with_the_body_and_with_the_connection(self) -> None:
        wire = Wire()
        wire.app.gate.clear()
        await wire.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell")
        assert [LOOK_S] == wire.loop.pending
        await wire.feed(b"o")
        wire.loop.advance(LOOK_S)
        assert [] == wire.loop.pending
        other = Wire()
        await other.feed(HEAD)
        other.transport.close()
        await other.settle()
        assert [] == other.loop.pending


class TestAnswers:
    async def test_one_that_nobody_reads_is_given_up_and_counted(self) -> None:
        wire = Wire()
        wire.transport.unsent_bytes = 1000
        await wire.feed(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for _ in range(LOOKS):
            assert {} == reasons(wire)
            wire.loop.advance(LOOK_S)
        assert ("abort", {"ANSWER_NOT_READ": 1}) == (wire.transport.ended, reasons(wire))

    async def test_one_that_is_read_at_the_least_pace_is_sent_to_its_end(self) -> None:
        wire = Wire()
        wire.transport.unsent_bytes = 30 * ENOUGH
        await wire.feed(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.protocol.timeout_keep_alive_task.cancel()  # type: ignore[union-attr]
        for _ in range(30):
            wire.loop.advance(LOOK_S)
            wire.transport.unsent_bytes -= ENOUGH
        wire.loop.advance(LOOK_S)
        assert ({}, "", []) == (reasons(wire), wire.transport.ended, wire.loop.pending)

    async def test_one_that_is_written_bit_by_bit_is_watched_from_the_first_pause(self) -> None:
        wire = Wire()
        wire.app.gate.clear()
        await wire.feed(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.transport.unsent_bytes = 70_000
        wire.protocol.pause_writing()
        for _ in range(LOOKS):
            wire.loop.advance(LOOK_S)
        assert {"ANSWER_NOT_READ": 1} == reasons(wire)


# Real sockets. Client and server share a loop, so a machine that stands still stands still for both.

REAL = PaceLimits(least_bytes_per_s=1000.0, grace_s=0.5)
ANSWER_BYTES = 8_000_000
PATIENCE_S = 30.0


class Server:
    """The protocol on a socket."""

    def __init__(self) -> None:
        self.refusals = Refusals(ManualClock())
        self.state = ServerState()
        self.app = Echo()
        config = Config(self, log_config=None, lifespan="off", ws="none", proxy_headers=False)
        config.load()
        limits = HeadLimits(limit_bytes=2000, limit_fields=10, timeout_s=10.0)
        self.make = lambda: B1Protocol(config, self.state, {}, limits=limits, refusals=self.refusals, pace=REAL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/large":
            await self.app(scope, receive, send)
            return
        headers = [(b"content-length", str(ANSWER_BYTES).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(ANSWER_BYTES)})

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        server = await asyncio.get_running_loop().create_server(self.make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=65536)
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield reader, writer
        finally:
            writer.transport.abort()
            server.close()
            while self.state.connections or self.state.tasks:
                await asyncio.sleep(0.01)


async def test_on_a_socket_a_dripping_body_gets_its_408() -> None:
    server = Server()
    async with server.connected() as (reader, writer):
        writer.write(HEAD)
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.1)
        assert answer.result().startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.result()
    assert {"BODY_TOO_SLOW": 1} == server.refusals.snapshot().by_reason


async def test_on_a_socket_an_answer_that_nobody_reads_is_given_up() -> None:
    server = Server()
    async with server.connected() as (_, writer):
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        while not server.refusals.snapshot().total:
            await asyncio.sleep(0.02)
    assert {"ANSWER_NOT_READ": 1} == server.refusals.snapshot().by_reason


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"], ids=["kept", "last"])
async def test_on_a_socket_a_patient_reader_gets_all_of_a_large_answer(more: str) -> None:
    server = Server()
    async with server.connected() as (reader, writer):
        writer.write(f"GET /large HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        received = 0
        while received < ANSWER_BYTES:
            received += len(await reader.readexactly(min(250_000, ANSWER_BYTES - received)))
            await asyncio.sleep(0.03)
    assert {} == server.refusals.snapshot().by_reason
