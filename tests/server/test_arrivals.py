"""What the protocol tells the gate: when a request came, whether its client is there; and how long a line may idle."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from b1.admission import ARRIVALS_STATE, ARRIVED_KEY, LINE_KEY, Arrivals
from b1.server.arrivals import age_reader
from tests.server.wire import Wire

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
# The kernel counts in ticks of at most 10 ms.
TICK_S = 0.011


class Late(asyncio.Protocol):
    """Reads, or is told to read, and says how old the bytes are."""

    def __init__(self) -> None:
        self.ages: asyncio.Queue[tuple[bytes, float | None]] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.age_of = age_reader(transport)

    def data_received(self, data: bytes) -> None:
        self.ages.put_nowait((data, self.age_of() if self.age_of is not None else None))


@asynccontextmanager
async def connected(protocol: Late, path: str | None = None) -> AsyncIterator[asyncio.StreamWriter]:
    """A server of one protocol and a client of it; over a Unix socket when a path is given."""
    loop = asyncio.get_running_loop()
    if path is not None:
        server = await loop.create_unix_server(lambda: protocol, path)
        _, writer = await asyncio.open_unix_connection(path)
    else:
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_the_age_is_the_time_in_the_kernel_of_this_requests_bytes(new_loop: Any) -> None:
    async def scenario() -> None:
        protocol = Late()
        async with asyncio.timeout(20), connected(protocol) as writer:
            for _ in range(2):  # a kept connection: the second request's age is its own
                writer.write(GET)
                time.sleep(0.15)  # the loop stands still, the bytes do not
                data, age_s = await protocol.ages.get()
                assert data == GET
                assert age_s is not None
                assert 0.15 - TICK_S <= age_s

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_an_idle_line_does_not_make_the_next_request_old() -> None:
    async def scenario() -> list[float]:
        protocol, ages = Late(), []
        async with asyncio.timeout(20), connected(protocol) as writer:
            for _ in range(5):
                await asyncio.sleep(0.2)
                writer.write(GET)
                _, age_s = await protocol.ages.get()
                ages.append(age_s or 0.0)
        return ages

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert min(runner.run(scenario())) < 0.15


async def test_what_is_no_tcp_has_no_age(tmp_path: Any) -> None:
    protocol = Late()
    async with asyncio.timeout(20), connected(protocol, str(tmp_path / "socket")) as writer:
        writer.write(GET)
        assert (GET, None) == await protocol.ages.get()


async def test_each_request_carries_its_arrival_and_its_line() -> None:
    wire = Wire()
    before_s = time.monotonic()
    await wire.feed(GET + GET, GET)
    assert 3 == len(wire.app.scopes)
    assert all(before_s <= scope[ARRIVED_KEY] <= time.monotonic() for scope in wire.app.scopes)
    assert 1 == len({id(scope[LINE_KEY]) for scope in wire.app.scopes})


async def test_the_age_of_the_bytes_moves_the_arrival_back() -> None:
    wire = Wire()
    wire.protocol._age_of = lambda: 5.0
    await wire.feed(GET)
    assert wire.app.scopes[0][ARRIVED_KEY] <= time.monotonic() - 5.0


async def test_connections_and_pieces_are_counted() -> None:
    wire = Wire()
    await wire.feed(GET, GET[:10], GET[10:])
    assert 4 == wire.protocol._arrivals.events


async def test_all_connections_of_a_worker_share_what_is_counted() -> None:
    wire = Wire()
    arrivals = wire.protocol._arrivals
    await wire.feed(GET)
    assert arrivals is wire.app.scopes[0]["state"][ARRIVALS_STATE]


async def test_a_lost_connection_is_known_to_its_line() -> None:
    wire = Wire()
    wire.app.gate.clear()
    await wire.feed(GET)
    [scope] = wire.app.scopes
    assert not scope[LINE_KEY].is_gone
    wire.transport.close()
    await wire.settle()
    assert scope[LINE_KEY].is_gone


async def test_idle_lines_are_closed_sooner_when_memory_is_short() -> None:
    wire = Wire()
    arrivals: Arrivals = wire.protocol._arrivals
    await wire.feed(GET)
    assert 5.0 in wire.loop.pending
    arrivals.shorten(2.0)
    await wire.feed(GET)
    assert 2.0 in wire.loop.pending
    assert 5.0 not in wire.loop.pending
    wire.loop.advance(2.0)
    assert "close" == wire.transport.ended


def test_keep_alive_is_never_made_longer() -> None:
    arrivals = Arrivals(1.0)
    arrivals.shorten(2.0)
    assert 1.0 == arrivals.keep_alive_s
    arrivals.shorten(None)
    assert 1.0 == arrivals.keep_alive_s
