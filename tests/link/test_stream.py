"""Parser and queue under streams that no server would be polite enough to send: split anywhere, pushes anywhere.

The wire is fed by hand, over a transport of ours that only remembers; what the replies should be is known, because the
test encodes them itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b1.clock import SystemClock
from b1.errors import StoreUnavailable
from b1.link.owner import WireEvents, WireLimits
from b1.link.replies import ReplyError
from b1.link.wire import Wire

LIMITS = WireLimits(deadline_s=60, calls=10_000, held_bytes=2**30, command_bytes=2**20, stall_s=60)


class Paper(asyncio.Transport):
    """A transport that writes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.is_aborted = True


class Heard(WireEvents):
    """Remembers pushes."""

    def __init__(self) -> None:
        self.pushes: list[list[Any]] = []

    def pushed(self, message: list[Any]) -> None:
        self.pushes.append(list(message))


def new_wire(limits: WireLimits = LIMITS) -> tuple[Wire, Paper, Heard]:
    events = Heard()
    wire, paper = Wire(limits, SystemClock(), events), Paper()
    wire.take_over(paper)
    return wire, paper, events


Word = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
Kind = tuple[bytes, Any]


def _error(text: str) -> Kind:
    word, _, message = text.partition(" ")
    return b"-" + text.encode() + b"\r\n", ("error", word, message)


def _double(number: float) -> Kind:
    return b",%b\r\n" % repr(number).encode(), number


simple: st.SearchStrategy[Kind] = st.one_of(
    st.binary(max_size=60).map(lambda data: (b"$%d\r\n%b\r\n" % (len(data), data), data)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: (b":%d\r\n" % number, number)),
    Word.map(lambda text: (b"+" + text.encode() + b"\r\n", text.encode())),
    Word.filter(lambda text: text.split(" ")[0] not in ("READONLY", "NOAUTH")).map(_error),
    st.just((b"$-1\r\n", None)),
    st.just((b"*-1\r\n", None)),
)
resp3_only: st.SearchStrategy[Kind] = st.one_of(
    st.just((b"_\r\n", None)),
    st.booleans().map(lambda flag: (b"#t\r\n" if flag else b"#f\r\n", flag)),
    st.floats(allow_nan=False, allow_infinity=False).map(_double),
    st.integers(2**63, 2**90).map(lambda number: (b"(%d\r\n" % number, b"%d" % number)),
    st.binary(max_size=30).map(lambda data: (b"=%d\r\ntxt:%b\r\n" % (len(data) + 4, data), data)),
)


def _list(items: list[Kind]) -> Kind:
    return b"*%d\r\n" % len(items) + b"".join(data for data, _ in items), [value for _, value in items]


def _set(items: list[Kind]) -> Kind:
    return b"~%d\r\n" % len(items) + b"".join(data for data, _ in items), [value for _, value in items]


def _map(items: list[tuple[bytes, Kind]]) -> Kind:
    pairs = b"".join(b"$%d\r\n%b\r\n%b" % (len(key), key, value[0]) for key, value in items)
    return b"%%%d\r\n%b" % (len(items), pairs), {key: value[1] for key, value in items}


def _nested(leaves: st.SearchStrategy[Kind], *shapes: str) -> st.SearchStrategy[Kind]:
    def wider(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
        choices = [st.lists(inner, max_size=4).map(_list)]
        if "resp3" in shapes:
            choices.append(st.lists(inner, max_size=4).map(_set))
            keyed = st.tuples(st.binary(max_size=6), inner)
            choices.append(st.lists(keyed, max_size=3, unique_by=lambda pair: pair[0]).map(_map))
        return st.one_of(choices)

    # `recursive` alone gives almost nothing but containers.
    return st.one_of(leaves, leaves, st.recursive(leaves, wider, max_leaves=8))


REPLIES = {2: _nested(simple), 3: _nested(st.one_of(simple, resp3_only), "resp3")}
pushes: st.SearchStrategy[Kind] = st.lists(st.one_of(simple, resp3_only), min_size=1, max_size=4).map(
    lambda items: (b">%d\r\n" % len(items) + b"".join(data for data, _ in items), [value for _, value in items])
)


def plain(value: Any) -> Any:
    """Make a reply comparable."""
    if isinstance(value, ReplyError):
        return "error", value.word, str(value).removeprefix(f"Redis answered {value.word}: ")
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


async def _outcome(reply: asyncio.Future[Any]) -> Any:
    try:
        return plain(await reply)
    except ReplyError as error:
        return plain(error)


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges) if end > start]


def _on_a_loop(scenario: Callable[[], Any]) -> None:
    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", [2, 3])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_each_reply_reaches_its_caller_however_the_stream_is_split(protocol: int, data: st.DataObject) -> None:
    replies = data.draw(st.lists(REPLIES[protocol], min_size=1, max_size=12))
    between = data.draw(st.lists(st.lists(pushes, max_size=2), min_size=len(replies) + 1, max_size=len(replies) + 1))
    if protocol == 2:
        between = [[] for _ in between]
    given_up = data.draw(st.sets(st.integers(0, len(replies) - 1)))
    stream = b"".join(push for push, _ in between[0])
    for (reply, _), after in zip(replies, between[1:], strict=True):
        stream += reply + b"".join(push for push, _ in after)
    pieces = _pieces(stream, data.draw(st.lists(st.integers(0, 10**6), max_size=30)))

    async def scenario() -> None:
        wire, paper, heard = new_wire()
        calls = [wire.submit(("ECHO", number)) for number in range(len(replies))]
        await asyncio.sleep(0)
        assert len(paper.written) == 1
        for number in given_up:
            calls[number].cancel()
        for piece in pieces:
            wire.data_received(piece)
        assert wire.pending == wire.pending_bytes == 0
        for number, (_, expected) in enumerate(replies):
            if number not in given_up:
                assert await _outcome(calls[number]) == expected
        assert [plain(push) for push in heard.pushes] == [value for after in between for _, value in after]
        assert not wire.ended.done()
        wire.end(ConnectionError("over"))

    _on_a_loop(scenario)


@settings(max_examples=150, deadline=None)
@given(
    turns=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=12),
    given_up=st.sets(st.integers(0, 59)),
)
def test_calls_and_replies_may_interleave_in_any_way(turns: list[tuple[int, int]], given_up: set[int]) -> None:
    async def scenario() -> None:
        wire, paper, _ = new_wire()
        calls: list[asyncio.Future[Any]] = []
        answered = 0
        for asked, replied in turns:
            for _ in range(asked):
                calls.append(wire.submit(("ECHO", len(calls))))
                if len(calls) - 1 in given_up:
                    calls[-1].cancel()
            await asyncio.sleep(0)
            replied = min(replied, b"".join(paper.written).count(b"ECHO") - answered)
            wire.data_received(b"".join(b":%d\r\n" % (answered + n) for n in range(replied)))
            answered += replied
            assert wire.pending == len(calls) - answered
            assert (wire.pending_bytes == 0) == (wire.pending == 0)
        for number, call in enumerate(calls):
            if number not in given_up and number < answered:
                assert call.result() == number
        wire.end(ConnectionError("over"))
        assert all(call.done() for call in calls)
        for number, call in enumerate(calls[answered:], answered):
            if number not in given_up:
                assert isinstance(call.exception(), StoreUnavailable)

    _on_a_loop(scenario)


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(min_size=1, max_size=200), calls=st.integers(0, 5), cut=st.integers(0, 200))
def test_noise_never_raises_and_never_leaves_a_caller_waiting_on_a_dead_line(
    noise: bytes, calls: int, cut: int
) -> None:
    async def scenario() -> None:
        wire, paper, _ = new_wire()
        waiting = [wire.submit(("PING",)) for _ in range(calls)]
        await asyncio.sleep(0)
        for piece in (noise[:cut], noise[cut:]):
            if piece and not wire.ended.done():
                wire.data_received(piece)
        if wire.ended.done():
            assert paper.is_aborted
            assert all(call.done() for call in waiting)
        wire.end(ConnectionError("over"))
        for call in waiting:
            call.exception()

    _on_a_loop(scenario)


async def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    wire, paper, _ = new_wire()
    first = wire.submit(("PING",))
    await asyncio.sleep(0)
    second = wire.submit(("PING",))  # queued, not yet sent: nothing that comes can be its answer
    wire.data_received(b"+PONG\r\n+PONG\r\n")
    assert await first == b"PONG"
    with pytest.raises(StoreUnavailable, match="ended before the answer came"):
        await second
    assert paper.is_aborted
    assert "nobody asked for" in str(wire.ended.result())


async def test_the_handler_of_a_push_may_fail_without_harm() -> None:
    class Clumsy(WireEvents):
        def pushed(self, message: list[Any]) -> None:
            raise RuntimeError("oops")

    wire = Wire(LIMITS, SystemClock(), Clumsy())
    wire.take_over(Paper())
    call = wire.submit(("PING",))
    await asyncio.sleep(0)
    wire.data_received(b">2\r\n+message\r\n+x\r\n+PONG\r\n")
    assert await call == b"PONG"
    wire.end(ConnectionError("over"))


async def test_numbers_that_are_none_are_values() -> None:
    wire, _, _ = new_wire()
    calls = [wire.submit(("PING",)) for _ in range(3)]
    await asyncio.sleep(0)
    wire.data_received(b",nan\r\n,-inf\r\n#f\r\n")
    nan, infinite, false = await asyncio.gather(*calls)
    assert math.isnan(nan)
    assert infinite == -math.inf
    assert false is False
    wire.end(ConnectionError("over"))


async def test_what_is_held_back_and_no_longer_wanted_is_never_sent() -> None:
    wire, paper, _ = new_wire()
    wire.pause_writing()
    calls = [wire.submit(("ECHO", number)) for number in range(3)]
    await asyncio.sleep(0)
    more = [wire.submit(("ECHO", number)) for number in range(3, 6)]
    await asyncio.sleep(0)
    assert paper.written == []
    calls[1].cancel()
    more[0].cancel()
    late = wire.submit(("ECHO", 6))  # its turn is not over yet
    wire.resume_writing()
    await asyncio.sleep(0)
    sent = b"".join(paper.written)
    assert [number for number in range(7) if b"\r\n%d\r\n" % number in sent] == [0, 2, 4, 5, 6]
    wire.data_received(b":0\r\n:2\r\n:4\r\n:5\r\n:6\r\n")
    assert await asyncio.gather(calls[0], calls[2], more[1], more[2], late) == [0, 2, 4, 5, 6]
    assert (wire.pending, wire.pending_bytes) == (0, 0)
    wire.end(ConnectionError("over"))


async def test_bytes_are_bounded_within_one_turn_of_the_loop_too() -> None:
    limits = WireLimits(deadline_s=60, calls=10_000, held_bytes=10_000, command_bytes=5000, stall_s=60)
    wire, paper, _ = new_wire(limits)
    calls = [wire.submit(("SET", "k", b"x" * 1000)) for _ in range(10)]
    with pytest.raises(StoreUnavailable, match="10 calls to Redis are waiting"):
        wire.submit(("SET", "k", b"x" * 1000))
    await asyncio.sleep(0)
    assert len(paper.written) == 1
    wire.data_received(b"+OK\r\n" * 10)
    assert await asyncio.gather(*calls) == [b"OK"] * 10
    assert wire.pending_bytes == 0
    wire.end(ConnectionError("over"))


async def test_bytes_that_are_held_back_are_bounded_and_more_fails_at_once() -> None:
    limits = WireLimits(deadline_s=60, calls=10_000, held_bytes=10_000, command_bytes=5000, stall_s=60)
    wire, _, _ = new_wire(limits)
    wire.pause_writing()
    calls = []
    for _ in range(10):
        calls.append(wire.submit(("SET", "k", b"x" * 1000)))
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="10 calls to Redis are waiting"):
        wire.submit(("SET", "k", b"x" * 1000))
    wire.end(ConnectionError("over"))
    assert all(isinstance(call.exception(), StoreUnavailable) for call in calls)


async def test_a_call_that_finds_nobody_on_the_way_leaves_at_the_end_of_its_turn() -> None:
    wire, paper, _ = new_wire()
    for number in range(3):
        call = wire.submit(("ECHO", number))
        await asyncio.sleep(0)
        assert len(paper.written) == number + 1
        wire.data_received(b":%d\r\n" % number)
        assert await call == number
    wire.end(ConnectionError("over"))
