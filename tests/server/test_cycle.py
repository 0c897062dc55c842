"""Our cycle writes what uvicorn's writes, byte for byte, and refuses what it refuses."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from b1.server.cycle import B1Cycle


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True


class Outcome:
    """What a cycle made of some messages."""

    def __init__(self, transport: Transport, cycle: RequestResponseCycle, endings: int, error: BaseException | None):
        self.written = transport.written
        self.is_closed = transport.is_closed
        self.endings = endings
        self.is_complete = cycle.response_complete
        self.keep_alive = cycle.keep_alive
        self.has_failed = error is not None

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    def __repr__(self) -> str:
        return repr(vars(self))


async def run(
    kind: type[RequestResponseCycle], method: str, keep_alive: bool, messages: list[dict[str, Any]]
) -> Outcome:
    transport, endings = Transport(), []
    cycle = kind(
        scope=cast("Any", {"method": method}),
        transport=cast("Any", transport),
        flow=FlowControl(cast("Any", transport)),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[(b"date", b"Sat, 21 Nov 2026 12:00:00 GMT")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: endings.append(1),
    )
    try:
        for message in messages:
            await cycle.send(cast("Any", message))
    except RuntimeError as error:
        return Outcome(transport, cycle, len(endings), error)
    return Outcome(transport, cycle, len(endings), None)


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


CASES: dict[str, list[dict[str, Any]]] = {
    "a length": [start(200, (b"content-length", b"5")), body(b"hello")],
    "an empty body of length 0": [start(200, (b"content-length", b"0")), body()],
    "chunks": [start(), body(b"a", more=True), body(b"", more=True), body(b"bc")],
    "chunks with an empty end": [start(), body(b"a", more=True), body()],
    "no body at all": [start(204), body()],
    "not modified": [start(304, (b"etag", b'"x"')), body()],
    "upper case": [start(200, (b"Content-Length", b"2"), (b"X-Name", b"Value")), body(b"ok")],
    "closed by the application": [start(200, (b"connection", b"close"), (b"content-length", b"0")), body()],
    "closed among other words": [start(200, (b"connection", b"Upgrade, Close")), body(b"x")],
    "declared chunked": [start(200, (b"transfer-encoding", b"chunked")), body(b"x")],
    "bytes above ASCII and a tab": [start(200, (b"x-name", b"caf\xe9\t\xff"), (b"content-length", b"0")), body()],
    "an empty value": [start(200, (b"x-name", b""), (b"content-length", b"0")), body()],
    "the same field twice": [start(200, (b"x-name", b"1"), (b"x-name", b"2")), body(b"x")],
    "a body that is too long": [start(200, (b"content-length", b"1")), body(b"ab")],
    "a body that is too short": [start(200, (b"content-length", b"3")), body(b"ab")],
    "a body before the start": [body(b"x")],
    "a second start": [start(), start()],
    "a message after the end": [start(200, (b"content-length", b"0")), body(), body(b"x")],
    "a line end in a value": [start(200, (b"x-name", b"a\r\nset-cookie: b"))],
    "a bare line feed in a value": [start(200, (b"x-name", b"a\nb"))],
    "a bare return in a value": [start(200, (b"x-name", b"a\rb"))],
    "a NUL in a value": [start(200, (b"x-name", b"a\0b"))],
    "a blank in a name": [start(200, (b"x name", b"a"))],
    "a colon in a name": [start(200, (b"x:name", b"a"))],
    "a line end in a name": [start(200, (b"x\r\nname", b"a"))],
}


@pytest.mark.parametrize("messages", CASES.values(), ids=CASES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("keep_alive", [True, False])
async def test_it_does_what_uvicorns_does(messages: list[dict[str, Any]], method: str, keep_alive: bool) -> None:
    expected = await run(RequestResponseCycle, method, keep_alive, messages)
    # Twice: a name is checked the first time, and remembered.
    assert expected == await run(B1Cycle, method, keep_alive, messages)
    assert expected == await run(B1Cycle, method, keep_alive, messages)


async def test_more_names_than_are_remembered_are_written_all_the_same() -> None:
    for number in range(3000):
        messages = [start(200, (b"x-%d" % number, b"1"), (b"content-length", b"0")), body()]
        outcome = await run(B1Cycle, "GET", True, messages)
    assert b"\r\nx-2999: 1\r\n" in outcome.written


BROKEN_HEADS: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "without a length": ((b"x-name", b"a\nb"),),
    "with a length": ((b"content-length", b"3"), (b"x-name", b"a\nb")),
    "chunked": ((b"transfer-encoding", b"chunked"), (b"x-name", b"a\nb")),
    "a length that is none": ((b"content-length", b"three"),),
    "a name that is none": ((b"content-length", b"3"), (b"x name", b"a")),
    "closing": ((b"connection", b"close"), (b"x-name", b"a\nb")),
}


@pytest.mark.parametrize("fields", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
async def test_an_error_page_instead_of_a_broken_head_is_framed_by_its_own_fields(
    fields: tuple[tuple[bytes, bytes], ...],
) -> None:
    transport = Transport()
    cycle = B1Cycle(
        scope=cast("Any", {"method": "GET"}),
        transport=cast("Any", transport),
        flow=FlowControl(cast("Any", transport)),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, *fields))
        await send(body(b"abc"))

    await cycle.run_asgi(cast("Any", app))
    head, _, page = transport.written.partition(b"\r\n\r\n")
    assert (b"Internal Server Error", True, True) == (page, cycle.response_complete, transport.is_closed)
    assert b"\r\ncontent-length: 21\r\n" in head
    assert head.count(b"\r\nconnection: close") == 1
