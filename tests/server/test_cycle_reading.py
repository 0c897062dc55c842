"""Our cycle is read like uvicorn's, without an event of asyncio's for each request."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from b1.server.cycle import B1Cycle


class Transport:
    """A connection on which nothing happens."""

    def write(self, data: bytes) -> None:
        """Drop it."""

    def close(self) -> None:
        """Nothing to close."""

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        """It reads always."""


def cycle_of(kind: type[RequestResponseCycle]) -> RequestResponseCycle:
    transport = cast("Any", Transport())
    return kind(
        scope=cast("Any", {"method": "POST"}),
        transport=transport,
        flow=FlowControl(transport),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )


def comes(cycle: RequestResponseCycle, body: bytes, *, more: bool) -> None:
    """Do what the protocol does with a piece of a body."""
    cycle.body += body
    cycle.message_event.set()
    if not more:
        cycle.more_body = False
        cycle.message_event.set()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


KINDS = pytest.mark.parametrize("kind", [B1Cycle, RequestResponseCycle], ids=["ours", "uvicorn's"])


@KINDS
class TestReceive:
    async def test_what_came_before_is_there_at_once(self, kind: type[RequestResponseCycle]) -> None:
        cycle = cycle_of(kind)
        comes(cycle, b"abc", more=False)
        assert {"type": "http.request", "body": b"abc", "more_body": False} == await cycle.receive()

    async def test_it_waits_for_each_piece(self, kind: type[RequestResponseCycle]) -> None:
        cycle, got = cycle_of(kind), []

        async def read() -> None:
            for _ in range(3):
                message: Any = await cycle.receive()
                got.append((message["body"], message["more_body"]))

        task = asyncio.create_task(read())
        for number, piece in enumerate((b"a", b"b", b"c")):
            await settle()
            assert number == len(got)
            comes(cycle, piece, more=number < 2)
        await task
        assert [(b"a", True), (b"b", True), (b"c", False)] == got

    async def test_everybody_who_waits_hears_of_the_end(self, kind: type[RequestResponseCycle]) -> None:
        cycle = cycle_of(kind)
        tasks = [asyncio.create_task(cycle.receive()) for _ in range(2)]
        await settle()
        cycle.disconnected = True
        cycle.message_event.set()
        assert ["http.disconnect"] * 2 == [(await task)["type"] for task in tasks]

    async def test_whoever_asks_after_the_answer_is_told_that_it_is_over(
        self, kind: type[RequestResponseCycle]
    ) -> None:
        cycle = cycle_of(kind)
        waiting = asyncio.create_task(cast("Any", cycle.receive()))
        await settle()
        await cycle.send({"type": "http.response.start", "status": 204, "headers": []})
        await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})
        assert ["http.disconnect"] * 2 == [(await waiting)["type"], (await cycle.receive())["type"]]

    async def test_a_wait_that_is_cancelled_takes_nothing_away(self, kind: type[RequestResponseCycle]) -> None:
        cycle = cycle_of(kind)
        waiting = asyncio.create_task(cast("Any", cycle.receive()))
        await settle()
        waiting.cancel()
        await settle()
        comes(cycle, b"abc", more=False)
        assert b"abc" == cast("Any", await cycle.receive())["body"]


async def test_a_request_without_a_body_makes_no_event() -> None:
    cycle = B1Cycle(
        cast("Any", {"method": "GET"}), cast("Any", Transport()), cast("Any", FlowControl(cast("Any", Transport()))),
        logging.getLogger("test"), logging.getLogger("test"), False, [],
    )  # fmt: skip
    comes(cycle, b"", more=False)
    await cycle.send({"type": "http.response.start", "status": 204, "headers": []})
    await cycle.send({"type": "http.response.body", "body": b""})
    assert "_arrival" not in vars(cycle)
