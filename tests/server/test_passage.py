"""What is sent into the passage waits in the kernel, whoever has gone meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from b1.server.passage import (
    END,
    NEWS,
    NEWS_BYTES,
    REST,
    SOCKETS,
    STATE,
    Parcel,
    Passage,
    Predecessor,
    Will,
    read_state,
)
from b1.server.succession import Succession, fits
from b1.units import MIB


@pytest.fixture
def passage() -> Iterator[Passage]:
    passage = Passage()
    yield passage
    passage.close()


def received(passage: Passage) -> list[Parcel]:
    parcels = []
    while (parcel := passage.receive()) is not None:
        parcels.append(parcel)
    return parcels


def test_connections_outlive_the_process_that_sent_them(passage: Passage) -> None:
    ours, theirs = socket.socketpair()
    if (child := os.fork()) == 0:
        sent = passage.send_sockets([theirs.fileno()] * 3)
        os._exit(sent)
    theirs.close()
    _, status = os.waitpid(child, 0)
    assert 3 == os.waitstatus_to_exitcode(status)
    ours.sendall(b"question")
    [parcel] = received(passage)
    assert (SOCKETS, child, 3) == (parcel.kind, parcel.sender, len(parcel.descriptors))
    with socket.socket(fileno=parcel.descriptors[0]) as adopted:
        assert b"question" == adopted.recv(100)
    for descriptor in parcel.descriptors[1:]:
        os.close(descriptor)
    assert b"" == ours.recv(100)
    ours.close()


def test_a_thousand_connections_pass_at_once(passage: Passage) -> None:
    ours, theirs = socket.socketpair()
    assert 1000 == passage.send_sockets([theirs.fileno()] * 1000)
    parcels = received(passage)
    assert 1000 == sum(len(parcel.descriptors) for parcel in parcels)
    for parcel in parcels:
        parcel.discard()
    ours.close()
    theirs.close()


def test_a_passage_that_is_full_takes_a_part_and_says_so(passage: Passage) -> None:
    while passage._send(END, ()):
        pass
    assert 0 == passage.send_sockets([0, 1, 2])
    assert not passage.send_state(b"state", last=False)
    assert passage.receive() is not None
    assert passage.send_state(b"state", last=False)


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
def test_state_of_any_size_passes(passage: Passage, size: int) -> None:
    data = os.urandom(size)
    assert passage.send_state(data, last=False)
    assert passage.send_state(data, last=True)
    passage.send_end()
    first, rest, end = received(passage)
    assert [STATE, REST, END] == [first.kind, rest.kind, end.kind]
    for parcel in (first, rest):
        assert data == (read_state(parcel.descriptors[0]) if parcel.descriptors else b"")


def test_a_will_is_read_whole_by_another_process() -> None:
    will = Will()
    assert (False, "asked", "handover", 0, 0.0) == _all(will)
    if (child := os.fork()) == 0:
        will.has_heir, will.reason, will.mode = True, "max_requests", "serial"
        will.baseline_bytes, will.closed_s = 3 * 2**33, 1234.5
        os._exit(0)
    os.waitpid(child, 0)
    assert (True, "max_requests", "serial", 3 * 2**33, 1234.5) == _all(will)


def _all(will: Will) -> tuple[object, ...]:
    return will.has_heir, will.reason, will.mode, will.baseline_bytes, will.closed_s


@pytest.mark.parametrize(
    ("used_mib", "limit_mib", "does_fit"),
    [
        (200, 1750, True),
        (1487, 1750, True),  # severe, at 85 %
        (1540, 1750, False),  # 88 %
        (300, 640, True),
        (544, 640, False),  # 85 % of the small profile
        (90, 200, False),
    ],
)
def test_a_second_worker_has_to_fit_below_the_emergency_mark(used_mib: int, limit_mib: int, does_fit: bool) -> None:
    assert does_fit == fits(used_mib * MIB, limit_mib * MIB, 100 * MIB)


def test_an_unknown_predecessor_counts_as_an_ordinary_one() -> None:
    assert fits(400 * MIB, 640 * MIB, 0) == fits(400 * MIB, 640 * MIB, 100 * MIB)


async def test_a_predecessor_that_is_gone_leaves_what_it_sent_and_what_others_sent_is_dropped(passage: Passage) -> None:
    assert passage.send_state(b"of somebody else", last=False)
    if (child := os.fork()) == 0:
        passage.send_state(b"first", last=False)
        passage.send_state(b"rest", last=True)
        os._exit(0)
    os.waitpid(child, 0)
    succession = Succession(passage, Will(), Predecessor(child, Will()), graceful_s=5)
    prepared: list[str] = []
    succession.before_inheriting(lambda: prepared.append("heap"))
    assert b"first" == await succession.inherit()
    assert b"rest" == await succession.inherit_rest()
    await succession.predecessor_gone()
    assert ["heap"] == prepared


async def test_a_predecessor_that_was_killed_leaves_nothing_and_nobody_waits(passage: Passage) -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    succession = Succession(passage, Will(), Predecessor(child, Will()), graceful_s=5)
    async with asyncio.timeout(10):
        assert await succession.inherit() is None
        assert await succession.inherit_rest() is None


async def test_without_a_predecessor_there_is_nothing_to_take(passage: Passage) -> None:
    succession = Succession(passage, Will(), None, graceful_s=5)
    prepared: list[str] = []
    succession.before_inheriting(lambda: prepared.append("heap"))
    assert not succession.is_successor
    assert await succession.inherit() is None
    assert await succession.inherit_rest() is None
    await succession.predecessor_gone()
    assert ["heap"] == prepared


# A successor that dies before it serves


def _dead_predecessor(passage: Passage, connection: socket.socket | None = None) -> Predecessor:
    """One that left state, a connection and its end, and is gone."""
    if (child := os.fork()) == 0:
        passage.send_state(b"first", last=False)
        if connection is not None:
            passage.send_sockets([connection.fileno()])
        passage.send_state(b"rest", last=True)
        passage.send_end()
        os._exit(0)
    os.waitpid(child, 0)
    return Predecessor(child, Will())


def _heir(passage: Passage, predecessor: Predecessor | None) -> Succession:
    return Succession(passage, Will(), predecessor, graceful_s=5)


async def test_what_a_successor_took_is_there_for_the_next_one_until_it_serves(passage: Passage) -> None:
    ours, theirs = socket.socketpair()
    predecessor = _dead_predecessor(passage, theirs)
    theirs.close()
    for _ in range(3):  # the first two are killed before they accept
        heir = _heir(passage, predecessor)
        assert (b"first", b"rest") == (await heir.inherit(), await heir.inherit_rest())
        await heir.predecessor_gone()
    adopted: list[socket.socket] = []
    heir.accept(adopted.append)
    ours.sendall(b"question")
    assert [b"question"] == [connection.recv(100) for connection in adopted]
    assert [] == passage.take_kept()
    for connection in adopted:
        connection.close()
    ours.close()


async def test_what_was_kept_of_somebody_else_is_dropped(passage: Passage) -> None:
    old = _heir(passage, _dead_predecessor(passage))
    assert b"first" == await old.inherit()
    other = _heir(passage, _dead_predecessor(passage))
    assert (b"first", b"rest") == (await other.inherit(), await other.inherit_rest())
    fresh = _heir(passage, None)
    fresh.accept(lambda connection: connection.close())
    assert ([], []) == (passage.take_kept(), received(passage))


def test_news_travels_in_the_message_and_is_bounded(passage: Passage) -> None:
    assert (True, False) == (passage.send_news(b"news"), passage.send_news(bytes(NEWS_BYTES + 1)))
    [parcel] = received(passage)
    assert (NEWS, os.getpid(), (), b"news") == (parcel.kind, parcel.sender, parcel.descriptors, parcel.data)
    assert passage.keep(parcel)
    assert [b"news"] == [kept.data for kept in passage.take_kept()]


@pytest.mark.parametrize("size", [60, 4000, NEWS_BYTES])
def test_news_that_nobody_reads_leaves_room_for_connections_and_state(passage: Passage, size: int) -> None:
    told = 0
    while told < 10_000 and passage.send_news(bytes(size)):
        told += 1
    assert 0 < told < 10_000
    assert 256 == passage.send_sockets([0] * 256)
    assert passage.send_state(b"the last word", last=True)
    for parcel in received(passage):
        parcel.discard()
    assert passage.send_news(bytes(size))


def test_news_that_is_kept_for_the_next_worker_leaves_room_for_connections(passage: Passage) -> None:
    kept = 0
    while kept < 10_000 and passage.keep(Parcel(NEWS, 7, (), bytes(1000))):
        kept += 1
    assert 0 < kept < 10_000
    assert passage.keep(Parcel(SOCKETS, 7, (0, 1, 2)))
    for parcel in passage.take_kept():
        parcel.discard()


async def test_a_successor_that_waits_for_our_end_is_told_nothing_it_finds_in_the_state(passage: Passage) -> None:
    will = Will()
    will.has_heir, will.mode = True, "serial"
    ours = Succession(passage, will, None, graceful_s=1.0)
    assert not ours.tell(b"news")
    will.mode = "handover"
    assert ours.tell(b"news")
    assert [NEWS] == [parcel.kind for parcel in received(passage)]
