"""How long one coroutine holds the loop, step by step; and a turn of the loop between two long steps.

A step runs from a resumption to the next await. Its length is measured here because a task's own processor time cannot be
had otherwise: between its start and its end the loop's thread works for everybody. Costs about 1 us per step, so it is
applied to a sample of light requests, and to all heavy ones. When several heavy requests wake up together, the loop would
not turn until all have computed; so a step waits while the loop rests from the last long one.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from time import perf_counter, process_time, thread_time
from typing import Any, Protocol

from b1.admission.ticket import Ticket


class Core(Protocol):
    """Who may hold the loop next."""

    def join(self) -> asyncio.Future[None] | None:
        """Return what to wait for before a step; None when it may run now."""
        ...

    def abandon(self, turn: asyncio.Future[None]) -> None:
        """Give up waiting, or a turn that came too late."""
        ...

    def step_ended(self, held_s: float) -> None:
        """Note that a step ended."""
        ...


@types.coroutine
def measured(work: Coroutine[Any, Any, None], ticket: Ticket, core: Core) -> Generator[Any, Any, None]:
    """Run `work` to its end, whatever that is.

    Leaves in the ticket how long it held the loop, and how long it stood in line for that.
    """
    habits, number = ticket.habits, -1
    held_s = queued_s = 0.0
    step, value = work.send, None
    try:
        while True:
            number += 1
            try:
                turn = core.join() if value is None and habits.is_long(number) else None  # an error goes in at once
                if turn is not None:
                    joined_s = perf_counter()
                    try:
                        yield from turn
                    except BaseException:
                        core.abandon(turn)
                        raise
                    queued_s += perf_counter() - joined_s
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation, while it waited for its turn
                value, step = error, work.throw
            began_s = perf_counter()
            try:
                awaited = step(value)
            except StopIteration:
                return
            finally:
                step_s = perf_counter() - began_s
                held_s += step_s
                habits.learn_step(number, step_s)
                core.step_ended(step_s)
            step, value = work.send, None
            try:
                yield awaited
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation, or what the awaited raised: the work's own
                value, step = error, work.throw
    finally:
        ticket.held_s, ticket.queued_s = held_s, queued_s


# `def` routes: what their threads compute is not seen in the loop's steps.


def begin_thread_sample(ticket: Ticket) -> None:
    """Note the processor time of all threads but the loop's."""
    ticket.cpu_began_s = process_time() - thread_time()


def end_thread_sample(ticket: Ticket) -> None:
    """Take the request's part of what the threads computed meanwhile."""
    spent_s = process_time() - thread_time() - ticket.cpu_began_s
    ticket.held_s = max(0.0, spent_s) / max(1, ticket.lane.running)
