"""When a process takes and gives up slots, and when it tries an absent server again; a clock that stands still."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from b1.clock import ManualClock
from b1.db.reach import BACKOFF_S, Reach
from b1.db.sharing import PAUSE_S, Sharing
from b1.slots import Slot, Slots

QUANTUM_S = 0.25


class Process:
    """A process that holds slots and keeps count."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.slots = Slots(folder, "pg", 3)
        self.slots.open()
        self.sharing = Sharing(self.slots, clock, QUANTUM_S)
        self.held: list[Slot] = []

    def take(self) -> bool:
        slot = self.sharing.take(len(self.held))
        if slot is not None:
            self.held.append(slot)
        return slot is not None

    def must_yield(self) -> bool:
        self.sharing.look(len(self.held))
        return self.sharing.must_yield(len(self.held))

    def give_one(self) -> None:
        self.held.pop().free()
        self.sharing.note_yield(len(self.held))
        self.sharing.note_freed(len(self.held))


@pytest.fixture
def processes(tmp_path: Path, clock: ManualClock) -> Iterator[list[Process]]:
    made = [Process(tmp_path / "b1-0" / "digest", clock) for _ in range(4)]
    yield made
    for process in made:
        process.slots.close()


def test_a_lone_process_takes_everything_and_yields_nothing(processes: list[Process]) -> None:
    one = processes[0]
    assert [one.take() for _ in range(4)] == [True, True, True, False]
    assert not one.must_yield()
    assert not one.sharing.is_wanting


def test_holders_of_more_than_one_yield_at_once_one_at_a_time(processes: list[Process], clock: ManualClock) -> None:
    one, newcomer, *_ = processes
    for _ in range(3):
        one.take()
    assert not newcomer.take()
    assert newcomer.sharing.is_wanting
    assert one.must_yield()
    one.give_one()
    assert not one.must_yield()  # the newcomer needs a moment to take it and to withdraw its wish
    assert newcomer.take()
    clock.advance(PAUSE_S)
    assert not one.must_yield()
    assert len(one.held) == 2


def test_a_sole_holder_yields_after_its_quantum(processes: list[Process], clock: ManualClock) -> None:
    for process in processes[:3]:
        assert process.take()
    newcomer = processes[3]
    assert not newcomer.take()
    assert not any(process.must_yield() for process in processes[:3])
    clock.advance(QUANTUM_S)
    assert all(process.must_yield() for process in processes[:3])


def test_the_quantum_of_a_sole_holder_starts_when_it_becomes_one(processes: list[Process], clock: ManualClock) -> None:
    one, two, three, _ = processes
    for _ in range(3):
        one.take()
    clock.advance(60)
    for newcomer in (two, three):
        assert not newcomer.take()
        assert one.must_yield()
        one.give_one()
        assert newcomer.take()
        clock.advance(PAUSE_S)
    assert not processes[3].take()
    assert not one.must_yield()


def test_nobody_takes_a_second_while_another_wants_a_first(processes: list[Process]) -> None:
    one, two, three, newcomer = processes
    assert one.take() and two.take() and three.take()
    assert not newcomer.take()
    three.give_one()
    assert not one.take()
    assert newcomer.take()
    newcomer.give_one()
    assert one.take()


def test_whoever_gave_its_last_one_up_leaves_it_to_others_for_a_moment(
    processes: list[Process], clock: ManualClock
) -> None:
    one = processes[0]
    one.take()
    one.give_one()
    assert not one.take()
    assert one.sharing.is_wanting
    clock.advance(PAUSE_S)
    assert one.take()
    assert not one.sharing.is_wanting


def test_attempts_back_off_and_the_first_answer_ends_it(clock: ManualClock) -> None:
    reach = Reach(clock, random.Random(1))
    assert reach.lose("ConnectionRefusedError")
    assert not reach.lose("TimeoutError")
    since_s = reach.away_since_s
    for longest_s in (*BACKOFF_S, BACKOFF_S[-1]):
        reach.back_off()
        assert not reach.may_try
        clock.advance(longest_s / 2 - 0.001)
        assert not reach.may_try
        clock.advance(longest_s / 2 + 0.001)
        assert reach.may_try
    assert reach.away_since_s == since_s
    assert reach.find() and not reach.find()
    assert not reach.is_away and reach.may_try
