"""When calls leave: a lone one at once, others together, in the order in which they were made, and none stays behind."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from b1.clock import SystemClock
from b1.errors import StoreUnavailable
from b1.link.owner import WireEvents, WireLimits
from b1.link.wire import Wire, pack
from tests.link.conftest import until

LIMITS = WireLimits(deadline_s=5.0, stall_s=5.0, calls=1000, held_bytes=2**20, command_bytes=2**16)


class Events(WireEvents):
    """Whoever owns the wire."""

    def __init__(self) -> None:
        self.pushes: list[Any] = []

    def pushed(self, message: list[Any]) -> None:
        self.pushes.append(message)


class Server:
    """The transport, and what stands behind it: it answers when it is told to."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_aborted = False

    def set_protocol(self, protocol: Any) -> None: ...

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abort(self) -> None:
        self.is_aborted = True

    @property
    def commands(self) -> list[int]:
        """The numbers that were sent."""
        words = b"".join(self.writes).split(b"\r\n")
        return [int(word) for word in words[4::5]]


class Receiver:
    """Takes a reply in the call that reads it."""

    def __init__(self, wire: Wire | None = None) -> None:
        self.told: Any = None
        self._wire = wire  # ended by the reply

    def done(self) -> bool:
        return self.told is not None

    def set_result(self, value: Any, /) -> None:
        self.told = value
        if self._wire is not None:
            self._wire.end(ConnectionError("its user has had enough"))

    def set_exception(self, error: Any, /) -> None:
        self.told = error


class Made:
    """A wire with its server."""

    def __init__(self, limits: WireLimits = LIMITS) -> None:
        self.server, self.events = Server(), Events()
        self.wire = Wire(limits, SystemClock(), self.events)
        self.wire.take_over(self.server)  # type: ignore[arg-type]
        self.answered = self.number = 0

    def post(self, *, is_patient: bool = False) -> Receiver:
        receiver = Receiver()
        self.number += 1
        self.wire.post(pack(("ECHO", self.number)), receiver, is_patient=is_patient)
        return receiver

    def answer(self, count: int | None = None) -> None:
        """Answer so many commands; None: all that came."""
        numbers = self.server.commands[self.answered :][:count]
        self.answered += len(numbers)
        self.wire.data_received(b"".join([b":%d\r\n" % number for number in numbers]))


@pytest.fixture
async def made() -> Made:
    return Made()


async def turn() -> None:
    await asyncio.sleep(0)


async def test_a_lone_call_leaves_at_the_end_of_its_turn(made: Made) -> None:
    made.post()
    await turn()
    assert made.server.commands == [1]


async def test_a_call_that_somebody_waits_for_never_waits_for_another(made: Made) -> None:
    for number in range(1, 4):
        made.post()
        await turn()
        assert made.server.commands == list(range(1, number + 1))


async def test_no_call_stays_behind_whether_answers_come_or_not(made: Made) -> None:
    made.post(is_patient=True)
    await until(lambda: made.server.commands == [1])
    made.post()
    await until(lambda: made.server.commands == [1, 2])
    made.post(is_patient=True)
    made.post()
    await turn()
    made.post(is_patient=True)
    await until(lambda: made.server.commands == [1, 2, 3, 4, 5])


async def test_an_urgent_call_takes_the_patient_ones_before_it_along(made: Made) -> None:
    made.post(is_patient=True)
    await turn()
    made.post()
    await turn()
    assert made.server.commands == [1, 2]


async def test_a_turn_is_patient_only_if_all_of_it_is(made: Made) -> None:
    made.post(is_patient=True)
    made.post()
    await turn()
    assert made.server.commands == [1, 2]


async def test_a_full_transport_holds_all_back_and_what_nobody_wants_any_more_is_never_sent(made: Made) -> None:
    made.post()
    await turn()
    made.wire.pause_writing()
    receivers = []
    for is_patient in (True, False, True, False):
        receivers.append(made.post(is_patient=is_patient))
        await turn()
    receivers[1].told = receivers[2].told = "gave up"
    made.answer()
    await asyncio.sleep(0.01)
    assert made.server.commands == [1]
    last = made.post()  # in the turn in which it goes on
    made.wire.resume_writing()
    await until(lambda: made.server.commands == [1, 2, 5, 6])
    made.answer()
    assert [receiver.told for receiver in (receivers[0], receivers[3], last)] == [2, 5, 6]
    assert made.wire.pending == made.wire.pending_bytes == 0


async def test_all_may_have_given_up_while_the_transport_was_full(made: Made) -> None:
    made.wire.pause_writing()
    made.post().told = "gave up"
    await turn()
    made.wire.resume_writing()
    assert (made.server.writes, made.wire.pending, made.wire.pending_bytes) == ([], 0, 0)
    later = made.post()
    await until(lambda: made.server.commands == [2])
    made.answer()
    assert later.told == 2


async def test_a_goodbye_is_the_last_to_leave(made: Made) -> None:
    made.post()
    await turn()
    made.post(is_patient=True)
    await turn()
    made.wire.goodbye()
    await until(lambda: b"QUIT" in b"".join(made.server.writes))
    sent = b"".join(made.server.writes)
    assert sent.index(pack(("ECHO", 2))) < sent.index(b"QUIT")
    with pytest.raises(StoreUnavailable):
        made.post()


async def test_whoever_waits_to_leave_hears_of_the_end(made: Made) -> None:
    receivers = [made.post()]
    await turn()
    receivers += [made.post(is_patient=True), made.post()]
    await turn()
    receivers.append(made.post())
    made.wire.end(ConnectionError("cut"))
    await asyncio.sleep(0.01)
    assert all(isinstance(receiver.told, StoreUnavailable) for receiver in receivers)
    assert len(made.server.writes) <= 2
    assert made.wire.pending == made.wire.pending_bytes == 0


async def test_a_connection_may_be_ended_by_whoever_takes_a_reply(made: Made) -> None:
    made.wire.post(pack(("ECHO", 1)), Receiver(made.wire))
    others = [Receiver(), Receiver()]
    for number, receiver in enumerate(others, 2):
        made.wire.post(pack(("ECHO", number)), receiver)
    await turn()
    made.wire.data_received(b":1\r\n")
    assert all(isinstance(receiver.told, StoreUnavailable) for receiver in others)
    assert made.server.is_aborted


async def test_a_late_deadline_ends_a_call_that_could_not_leave() -> None:
    made = Made(replace(LIMITS, deadline_s=0.02))
    made.wire.pause_writing()
    receiver = made.post(is_patient=True)
    await until(receiver.done)
    assert isinstance(receiver.told, StoreUnavailable)
    made.wire.resume_writing()
    assert (made.server.writes, made.wire.pending) == ([], 0)


async def test_pushes_are_heard_before_the_reply_behind_them(made: Made) -> None:
    seen: list[int] = []

    class Looks(Receiver):
        def set_result(self, value: Any, /) -> None:
            seen.append(len(made.events.pushes))

    made.wire.post(pack(("ECHO", 1)), Looks())
    made.wire.post(pack(("ECHO", 2)), Looks())
    await turn()
    made.wire.data_received(b":1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nd\r\n:2\r\n")
    assert seen == [0, 1]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_replies_go_to_who_asked_and_all_leave_in_their_order(made: Made, seed: int) -> None:
    pick = random.Random(seed)
    receivers: dict[int, Receiver] = {}
    unwanted, is_paused = set(), False
    for _ in range(400):
        match pick.randrange(9):
            case 0:
                await turn()
            case 1:
                await asyncio.sleep(0.002)
            case 2:
                made.answer(pick.randrange(4))
            case 3:
                made.answer()
            case 4:
                is_paused = not is_paused
                (made.wire.pause_writing if is_paused else made.wire.resume_writing)()
            case 5 if receivers:
                number = pick.choice(list(receivers))
                if not receivers[number].done():
                    receivers[number].told = "gave up"
                    unwanted.add(number)
            case _:
                receiver = made.post(is_patient=pick.random() < 0.5)
                receivers[made.number] = receiver
    made.wire.resume_writing()
    for _ in range(200):
        made.answer()
        await asyncio.sleep(0.001)
        if not made.wire.pending:
            break
    assert made.wire.pending == made.wire.pending_bytes == 0
    assert made.server.commands == sorted(made.server.commands)
    assert set(receivers) - set(made.server.commands) <= unwanted
    assert all(receiver.told == number for number, receiver in receivers.items() if number not in unwanted)
