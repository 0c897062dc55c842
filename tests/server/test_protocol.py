"""What a connection may send before it is a request, and in which pieces."""

from __future__ import annotations

import pytest

from tests.server.wire import LIMITS, Wire

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: x\r\nX-Name: some value\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
START = b"GET / HTTP/1.1\r\nHost: x\r\n"


def head(size: int) -> bytes:
    """A whole head of exactly `size` bytes by the protocol's measure (target, names, values, 4 per field)."""
    empty = len(b"/") + len("hostx") + 4 + len("long") + 4
    return START + b"Long: " + b"v" * (size - empty) + b"\r\n\r\n"


@pytest.mark.parametrize("request_bytes", [GET, POST, CHUNKED], ids=["get", "post", "chunked"])
async def test_a_request_is_understood_however_it_is_cut_in_two(request_bytes: bytes) -> None:
    whole = Wire()
    expected = await whole.feed(request_bytes)
    for position in range(1, len(request_bytes)):
        wire = Wire()
        assert expected == await wire.feed(request_bytes[:position], request_bytes[position:])
    assert [200] == [status for status, _ in whole.answers()]


async def test_a_request_is_understood_byte_by_byte() -> None:
    wire = Wire()
    await wire.feed(*(CHUNKED[i : i + 1] for i in range(len(CHUNKED))))
    assert [(200, b"/c hello")] == wire.answers()


async def test_pipelined_requests_are_answered_in_order_however_they_are_cut() -> None:
    both = POST + GET + CHUNKED
    for position in range(len(both)):
        wire = Wire()
        await wire.feed(both[:position], both[position:])
        assert [(200, b"/p hello"), (200, b"/a "), (200, b"/c hello")] == wire.answers()


async def test_a_head_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    wire, larger = Wire(), Wire()
    await wire.feed(head(LIMITS.limit_bytes))
    await larger.feed(head(LIMITS.limit_bytes + 1))
    assert [(200, b"/ ")] == wire.answers()
    assert (431, "HEADERS_TOO_LARGE") == larger.problem()
    assert [] == larger.paths


async def test_an_endless_header_is_refused_while_it_arrives() -> None:
    wire = Wire()
    await wire.feed(START + b"Long: ")
    pieces = 0
    while not wire.transport.has_eof:
        await wire.feed(b"v" * 100)
        pieces += 1
    assert (431, "HEADERS_TOO_LARGE") == wire.problem()
    assert LIMITS.limit_bytes // 100 == pieces


@pytest.mark.parametrize("endless", [b"GET /" + b"a" * 400, START + b"a" * 400, START + b"Long:" + b" " * 400])
async def test_an_endless_target_name_or_white_space_is_refused_too(endless: bytes) -> None:
    wire = Wire()
    await wire.feed(endless, *[endless[-1:] * 400] * 4)
    assert (431, "HEADERS_TOO_LARGE") == wire.problem()


async def test_as_many_fields_as_allowed_pass_and_one_more_does_not() -> None:
    fields = [b"A%d: b\r\n" % number for number in range(LIMITS.limit_fields)]
    wire, larger = Wire(), Wire()
    await wire.feed(START, *fields[1:], b"\r\n")
    await larger.feed(START + b"".join(fields) + b"\r\n")
    assert [(200, b"/ ")] == wire.answers()
    assert (431, "HEADERS_TOO_LARGE") == larger.problem()


async def test_too_many_fields_are_refused_before_the_head_ends() -> None:
    wire = Wire()
    await wire.feed(START, *[b"A: b\r\n"] * (LIMITS.limit_fields + 1))
    assert (431, "HEADERS_TOO_LARGE") == wire.problem()


async def test_a_large_body_in_the_piece_of_its_head_is_no_large_head() -> None:
    body = b"x" * (LIMITS.limit_bytes * 5)
    wire = Wire()
    await wire.feed(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert [(200, b"/p " + body)] == wire.answers()


async def test_a_body_in_tiny_chunks_is_no_large_head() -> None:
    count = LIMITS.limit_bytes
    wire = Wire()
    await wire.feed(b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    await wire.feed(*[b"1\r\nx\r\n"] * count, b"0\r\n\r\n")
    assert [(200, b"/c " + b"x" * count)] == wire.answers()


async def test_trailers_do_not_become_headers() -> None:
    wire = Wire()
    await wire.feed(CHUNKED[:-2] + b"Host: evil\r\nX-Role: admin\r\n\r\n")
    assert [(200, b"/c hello")] == wire.answers()
    assert [[b"host", b"transfer-encoding"]] == [[name for name, _ in scope["headers"]] for scope in wire.app.scopes]


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (CHUNKED[:-2], b"X: y\r\n"),
        (CHUNKED[:-2] + b"X: ", b"y"),
        (CHUNKED[:-5] + b"0;ext=", b"y"),
        (b"", b"\r\n"),
    ],
    ids=["trailers", "trailer", "chunk extension", "empty lines"],
)
async def test_bytes_that_lead_nowhere_are_bounded(begin: bytes, more: bytes) -> None:
    wire = Wire()
    wire.app.gate.clear()
    await wire.feed(*filter(None, [begin]), *[more * 100] * (LIMITS.limit_bytes // (len(more) * 100) + 1))
    await wire.settle()
    assert (431, "HEADERS_TOO_LARGE") == wire.problem()
    assert "http.disconnect" in wire.app.messages or not begin


NOT_HTTP = {
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "one length twice": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "list of lengths": b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": b"Content-Length: +5\r\n\r\nhello",
    "negative length": b"Content-Length: -5\r\n\r\nhello",
    "hexadecimal length": b"Content-Length: 0x5\r\n\r\nhello",
    "empty length": b"Content-Length:\r\n\r\n",
    "length beyond 64 bits": b"Content-Length: 18446744073709551617\r\n\r\n",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "length and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "vertical tab before chunked": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "folded line": b"X: a\r\n b\r\n\r\n",
    "bare line feed": b"X: a\nY: b\n\n",
    "bare carriage return": b"X: a\rb\r\n\r\n",
    "NUL in a value": b"X: a\0b\r\n\r\n",
    "NUL in a name": b"X\0: a\r\n\r\n",
    "no colon": b"nonsense\r\n\r\n",
    "second host": b"Host: y\r\n\r\n",
}
BAD_STARTS = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "unknown version": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2 without upgrade": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown method": b"HACK / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the path": b"GET /a\0b HTTP/1.1\r\nHost: x\r\n\r\n",
    "escaped NUL in the path": b"GET /a%00b HTTP/1.1\r\nHost: x\r\n\r\n",
    "escaped line feed in the path": b"GET /a%0Ab HTTP/1.1\r\nHost: x\r\n\r\n",
    "escaped delete in the path": b"GET /a%7f HTTP/1.1\r\nHost: x\r\n\r\n",
    "byte above 127": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
}
MALFORMED = {name: b"POST / HTTP/1.1\r\nHost: x\r\n" + fields for name, fields in NOT_HTTP.items()} | BAD_STARTS


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
async def test_what_another_server_might_read_differently_is_refused(malformed: bytes) -> None:
    wire = Wire()
    await wire.feed(malformed)
    assert (400, "MALFORMED_REQUEST") == wire.problem()
    assert [] == wire.paths
    assert wire.transport.has_eof


@pytest.mark.parametrize("coding", [b"identity", b"xchunked"])
async def test_an_unknown_transfer_coding_is_refused_and_its_request_gets_no_body(coding: bytes) -> None:
    wire = Wire()
    await wire.feed(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: %b\r\n\r\nabc" % coding)
    assert (400, "MALFORMED_REQUEST") == wire.problem()
    assert ["http.disconnect"] == wire.app.messages


@pytest.mark.parametrize("target", [b"/a%20b", b"/%C3%A4", b"/?q=%00", b"*", b"http://x/y"])
async def test_ordinary_targets_pass(target: bytes) -> None:
    wire = Wire()
    await wire.feed(b"OPTIONS %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    assert [200] == [status for status, _ in wire.answers()]


async def test_a_broken_body_tells_the_application_and_is_answered_once() -> None:
    wire = Wire()
    await wire.feed(CHUNKED[:-12], b"nonsense\r\n")
    assert (400, "MALFORMED_REQUEST") == wire.problem()
    assert "http.disconnect" == wire.app.messages[-1]


async def test_nonsense_after_a_request_leaves_that_request_its_answer() -> None:
    wire = Wire()
    wire.app.gate.clear()
    await wire.feed(GET + b"nonsense\r\n\r\n", b"more nonsense")
    assert b"" == bytes(wire.transport.written)
    wire.app.gate.set()
    await wire.settle()
    assert [(200, b"/a ")] == wire.answers()
    assert b"connection: close" in wire.transport.written
    assert "close" == wire.transport.ended


async def test_requests_that_wait_on_one_connection_are_bounded() -> None:
    wire = Wire()
    await wire.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    for _ in range(100):
        await wire.settle()
    assert 65 == len(wire.paths) == len(wire.answers())
    assert "close" == wire.transport.ended


async def test_after_a_refusal_the_clients_bytes_are_dropped_up_to_a_bound() -> None:
    wire = Wire()
    await wire.feed(head(LIMITS.limit_bytes + 1), b"x" * 1_000_000, b"x" * 1_000_000)
    assert "" == wire.transport.ended
    await wire.feed(b"x" * 1_000_000)
    assert "abort" == wire.transport.ended
    assert (431, "HEADERS_TOO_LARGE") == wire.problem()


async def test_after_a_refusal_a_silent_client_is_cut_off() -> None:
    wire = Wire()
    await wire.feed(head(LIMITS.limit_bytes + 1))
    wire.loop.advance(2)
    assert "abort" == wire.transport.ended


async def test_a_connection_that_says_nothing_is_closed_in_silence() -> None:
    wire = Wire()
    wire.loop.advance(LIMITS.timeout_s)
    assert ("close", b"") == (wire.transport.ended, bytes(wire.transport.written))
    assert 0 == wire.refusals.snapshot().total


async def test_a_head_that_drips_is_closed_and_counted() -> None:
    wire = Wire()
    for byte in START[:9]:
        await wire.feed(bytes([byte]))
        wire.loop.advance(1)
    assert "" == wire.transport.ended
    wire.loop.advance(1)
    assert "close" == wire.transport.ended
    assert {"HEADERS_TOO_SLOW": 1} == wire.refusals.snapshot().by_reason


async def test_the_second_request_of_a_connection_may_not_drip_either() -> None:
    wire = Wire()
    await wire.feed(GET)
    wire.loop.advance(4)
    await wire.feed(START)
    wire.loop.advance(LIMITS.timeout_s)
    assert "close" == wire.transport.ended
    assert {"HEADERS_TOO_SLOW": 1} == wire.refusals.snapshot().by_reason


async def test_a_running_request_has_no_timer() -> None:
    wire = Wire()
    wire.app.gate.clear()
    await wire.feed(GET)
    assert [] == wire.loop.pending
    wire.loop.advance(1000)
    wire.app.gate.set()
    await wire.settle()
    assert [(200, b"/a ")] == wire.answers()
    assert [5.0] == wire.loop.pending  # keep-alive


async def test_an_empty_line_after_an_answer_does_not_keep_the_connection_for_ever() -> None:
    wire = Wire()
    await wire.feed(GET, b"\r\n")
    wire.loop.advance(LIMITS.timeout_s)
    assert "close" == wire.transport.ended


async def test_a_head_is_not_late_while_we_do_not_read() -> None:
    wire = Wire()
    wire.app.gate.clear()
    wire.app.reads_first = False
    await wire.feed(GET + GET + START)
    assert wire.transport.is_paused
    wire.loop.advance(LIMITS.timeout_s)
    wire.app.gate.set()
    for _ in range(3):
        await wire.settle()
    await wire.feed(b"\r\n")
    assert [(200, b"/a "), (200, b"/a "), (200, b"/ ")] == wire.answers()


@pytest.mark.parametrize("offer", [b"h2c", b"websocket"])
async def test_an_upgrade_that_is_not_offered_here_is_an_ordinary_request_and_the_last(offer: bytes) -> None:
    wire = Wire()
    await wire.feed(START + b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % offer, GET)
    assert [(200, b"/ ")] == wire.answers()
    assert "close" == wire.transport.ended


async def test_everything_is_forgotten_when_the_client_goes_away_in_the_middle() -> None:
    wire = Wire()
    await wire.feed(START)
    wire.transport.close()
    await wire.settle()
    assert [] == wire.loop.pending
    assert set() == wire.state.connections


async def test_a_client_that_goes_away_is_told_to_the_application() -> None:
    wire = Wire()
    await wire.feed(POST[:-2])
    wire.transport.close()
    await wire.settle()
    assert "http.disconnect" == wire.app.messages[-1]
    assert set() == wire.state.tasks
