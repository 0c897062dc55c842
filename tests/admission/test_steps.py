"""Measuring a coroutine's steps changes nothing about it; long steps of several take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from time import perf_counter
from typing import Any

import pytest

from b1.admission import AdmissionOptions, Gate, Ticket, measured
from b1.clock import SystemClock

OPTIONS = AdmissionOptions()
HOLD_S = 0.004


def ticket(gate: Gate) -> Ticket:
    return Ticket(gate.habits("/", rank=1), 1, 0.0, None, None)


def hold(seconds: float = HOLD_S) -> None:
    end_s = perf_counter() + seconds
    while perf_counter() < end_s:
        pass


async def test_only_the_time_between_awaits_counts() -> None:
    gate = Gate(OPTIONS, SystemClock())
    one = ticket(gate)

    async def work() -> None:
        hold()
        await asyncio.sleep(0.2)
        hold()

    await measured(work(), one, gate.core)
    assert 2 * HOLD_S <= one.held_s < 0.2


async def _fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("as asked for")


async def _hears() -> None:
    with pytest.raises(ZeroDivisionError):
        await _raising(ZeroDivisionError())


async def _raising(error: Exception) -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, error)
    await future


@pytest.mark.parametrize(("work", "raised"), [(_fails, LookupError), (_hears, None)])
async def test_errors_come_and_go_as_without_it(
    work: Callable[[], Coroutine[Any, Any, None]], raised: type[Exception] | None
) -> None:
    gate = Gate(OPTIONS, SystemClock())
    if raised is None:
        await measured(work(), ticket(gate), gate.core)
    else:
        with pytest.raises(raised):
            await measured(work(), ticket(gate), gate.core)


async def test_a_cancellation_reaches_the_work_and_may_be_handled_there() -> None:
    gate, seen = Gate(OPTIONS, SystemClock()), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    task = asyncio.create_task(_run(work(), gate))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["cleaned up"] == seen


async def test_the_loop_turns_between_long_steps_that_are_ready_together() -> None:
    gate, order = Gate(OPTIONS, SystemClock()), []
    start, one = asyncio.Event(), ticket(gate)
    for number in (0, 1):
        one.habits.learn_step(number, HOLD_S if number else 0.0)  # the second step is the long one

    async def work(name: int) -> None:
        await start.wait()
        hold()
        order.append(name)

    tasks = [asyncio.create_task(_run(work(name), gate, one.habits)) for name in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    start.set()

    async def turns() -> None:
        while len([name for name in order if name >= 0]) < 3:
            order.append(-1)
            await asyncio.sleep(0)

    await asyncio.gather(turns(), *tasks)
    ran = [position for position, name in enumerate(order) if name >= 0]
    assert [0, 1, 2] == [order[position] for position in ran]
    assert all(later - earlier > 1 for earlier, later in pairwise(ran))


async def test_who_is_cancelled_while_it_waits_for_its_turn_passes_it_on() -> None:
    gate, order = Gate(OPTIONS, SystemClock()), []
    start, one = asyncio.Event(), ticket(gate)
    for number in (0, 1):
        one.habits.learn_step(number, HOLD_S if number else 0.0)

    async def work(name: int) -> None:
        await start.wait()
        hold()
        order.append(name)

    tasks = [asyncio.create_task(_run(work(name), gate, one.habits)) for name in range(4)]
    for _ in range(3):
        await asyncio.sleep(0)
    start.set()
    while not order:
        await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert [0, 3] == order
    assert [False, True, True, False] == [task.cancelled() for task in tasks]


async def _run(work: Coroutine[Any, Any, None], gate: Gate, habits: Any = None) -> None:
    one = ticket(gate)
    if habits is not None:
        one.habits = habits
    await measured(work, one, gate.core)
