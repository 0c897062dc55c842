"""Starts what waits, and lets the loop accept and parse between two pieces of long work.

uvloop accepts one connection per turn of the loop (libuv since 1.45). A loop that turns once per 10 ms request accepts 100
connections a second, whatever comes: the rest, probes included, grows old in the kernel, where nobody can refuse it. So
after each start, and after each long step of a request, the loop turns until a turn brings nothing new, within bounds. That
keeps the queue here, in sight, and answers probes meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from b1.admission.lane import Lane
from b1.admission.options import AdmissionOptions
from b1.clock import Clock

if TYPE_CHECKING:
    from b1.admission.gate import Gate

# An accepted connection is a request three turns later: made, read, parsed; each step is an event but the last.
_QUIET_TURNS = 2
_QUIET_TURNS_BLIND = 4  # without a server that counts events
# Turns that are taken whatever the clock says.
_LEAST_TURNS = 8
# This long after a long step the loop has turned anyway, and the next one needs no rest.
_REST_S = 0.001
# Looks at the ages of what waits at least this often: no event announces them.
_NAP_S = 0.01
# Starts between two rounds of turns add up to at most this much of the loop's time, at this much each beside what is known.
_ROUND_S = 0.005
_START_COSTS_S = 0.0003


class Pump:
    """The task that serves the queues; it exists while something waits or the loop rests.

    Args:
        lanes: each is served first in turn.
    """

    def __init__(self, gate: Gate, lanes: tuple[Lane, ...], options: AdmissionOptions, clock: Clock) -> None:
        self._gate = gate
        self._lanes = lanes
        self._options = options
        self._clock = clock
        self.task: asyncio.Task[None] | None = None  # None: nothing waits; read by the gate
        self._nap: asyncio.Future[None] | None = None
        self._offered = 0
        self._first = 0
        self._is_resting = False
        self._long_ended_s = 0.0
        self._turns: deque[asyncio.Future[None]] = deque()  # steps that wait for theirs
        self._handed: asyncio.Future[None] | None = None  # the one whose turn came and who has not run yet

    def __repr__(self) -> str:
        return f"<Pump {'resting' if self._is_resting else 'running' if self.task is not None else 'idle'}>"

    def stir(self) -> None:
        """Look again: something came or left."""
        self._offered += 1
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self._run(), name="b1-admission")
        elif self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    async def aclose(self) -> None:
        """End the task; whoever waits for admission must have been refused before."""
        task = self.task
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    # Turns for the steps of heavy requests (the `Core` of `b1.admission.steps`)

    def join(self) -> asyncio.Future[None] | None:
        """Return what to wait for before a step; None when it may run now."""
        if not self._is_resting and self._handed is None:
            if perf_counter() - self._long_ended_s >= _REST_S:
                return None
            self._is_resting = True
            self.stir()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        return turn

    def abandon(self, turn: asyncio.Future[None]) -> None:
        """Give up waiting, or a turn that came too late."""
        if turn is self._handed:
            self._hand()
        else:
            turn.cancel()  # left in the queue, and skipped there

    def step_ended(self, held_s: float) -> None:
        """After a long step the loop rests before the next one; after a short one the next may run at once."""
        if held_s >= self._options.heavy_s / 2:
            self._long_ended_s = perf_counter()
            if self._handed is not None:
                self._handed = None
                self._is_resting = True
                self.stir()
        elif self._handed is not None:
            self._hand()

    def _hand(self) -> None:
        self._handed = None
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                self._handed = turn
                turn.set_result(None)
                return

    # Serving the queues

    async def _run(self) -> None:
        try:
            while self._is_resting or any(lane.queued for lane in self._lanes):
                await self._read_ahead()
                self._is_resting = False
                if self._handed is None:
                    self._hand()
                now_s = self._clock.monotonic()
                self._expire(now_s)
                if not self._start(now_s) and any(lane.queued for lane in self._lanes):
                    await self._sleep()
        finally:
            self.task = None
            self._is_resting = False  # also when it was cancelled: nobody may wait for a rest that never ends
            if self._handed is None:
                self._hand()

    def _expire(self, now_s: float) -> None:
        for lane in self._lanes:
            if lane.queued:
                for ticket, refusal in lane.expire(now_s):
                    self._gate.decide(ticket, refusal)

    def _start(self, now_s: float) -> int:
        """Start what may start; return how much."""
        started = 0
        self._first = (self._first + 1) % len(self._lanes)
        for lane in self._lanes[self._first :] + self._lanes[: self._first]:
            spent_s = 0.0
            while lane.queued and spent_s < _ROUND_S:
                ticket = lane.next(now_s)
                if ticket is None:
                    break
                if ticket.decision is None or ticket.decision.done():  # its task was cancelled in this very turn
                    lane.give(ticket.rank)
                    continue
                self._gate.begin(ticket, now_s)
                ticket.decision.set_result(None)
                started += 1
                spent_s += ticket.habits.held_s + _START_COSTS_S
        return started

    async def _read_ahead(self) -> None:
        """Turn the loop until nothing new comes, within bounds."""
        await asyncio.sleep(0)  # runs what was just started; its time does not count
        clock = self._clock
        end_s = clock.monotonic() + self._options.ahead_s
        needed = _QUIET_TURNS if self._gate.arrivals is not None else _QUIET_TURNS_BLIND
        seen, quiet = self._events(), 0
        for turn in range(self._options.ahead_turns):
            await asyncio.sleep(0)
            events = self._events()
            quiet = 0 if events != seen else quiet + 1
            seen = events
            if quiet >= needed or (turn >= _LEAST_TURNS and clock.monotonic() >= end_s):
                return

    def _events(self) -> int:
        arrivals = self._gate.arrivals
        return self._offered + (arrivals.events if arrivals is not None else 0)

    async def _sleep(self) -> None:
        """Wait until something comes, something leaves, or it is time to look at ages."""
        loop = asyncio.get_running_loop()
        self._nap = nap = loop.create_future()
        timer = loop.call_later(_NAP_S, _wake, nap)
        try:
            await nap
        finally:
            timer.cancel()
            self._nap = None


def _wake(nap: asyncio.Future[None]) -> None:
    if not nap.done():
        nap.set_result(None)
