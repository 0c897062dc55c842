"""Which calls leave when: at the end of their turn of the loop, or together with those of the next turns.

While one write is unanswered the calls of later turns gather, and leave together when its last reply is in, or after a
millisecond. Writing, and reading what comes of it, costs more than what is written, above all under TLS: so a busy process
pays once for several callers. A call that finds nobody on the way never waits, unless nobody waits for its reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from b1.clock import Clock
from b1.link.pending import Pending, Turn

# The least that the loop's timers can tell.
GATHER_S = 0.001
# Calls whose reply nobody waits for gather for longer; what is lost with a killed process is of this time.
PATIENT_S = 0.004
_FULL = 128


class Departures:
    """The turns of one connection that are over and not sent yet.

    Args:
        send: writes turns, in this order.

    Attributes:
        has_urgent: somebody waits for a reply to what waits here.
    """

    __slots__ = (
        "_calls",
        "_clock",
        "_due_s",
        "_is_paused",
        "_loop",
        "_pending",
        "_send",
        "_timer",
        "has_urgent",
        "waiting",
    )

    def __init__(self, pending: Pending, send: Callable[[Sequence[Turn]], None], clock: Clock) -> None:
        self.waiting: list[Turn] = []
        self.has_urgent = False
        self._pending = pending
        self._send = send
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._is_paused = False
        self._calls = 0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Departures(waiting={len(self.waiting)}{', paused' if self._is_paused else ''})"

    def add(self, turn: Turn, *, is_alone: bool) -> None:
        """A turn is over.

        Args:
            is_alone: nothing that was sent is unanswered.
        """
        is_patient = turn.is_patient
        if is_alone and not is_patient and not self.waiting and not self._is_paused:
            self._send((turn,))
            return
        self.waiting.append(turn)
        self._calls += turn.count
        self.has_urgent |= not is_patient
        if self._is_paused:
            return
        if self._calls >= _FULL or (is_alone and not is_patient):
            self.go()
        else:
            self._mind(turn.since_s, PATIENT_S if is_patient else GATHER_S)

    def go(self) -> None:
        """Send whatever waits."""
        if not self.waiting or self._is_paused:
            return
        turns, self.waiting = self.waiting, []
        self.has_urgent, self._calls = False, 0
        now_s = self._clock.monotonic()
        for turn in turns:
            turn.since_s = now_s  # what the server said before it is asked proves nothing about its answer
        self._send(turns)

    def pause(self) -> None:
        """Send nothing: the transport is full."""
        self._is_paused = True

    def resume(self) -> None:
        """Send what is still wanted: turns may have waited for long, and what nobody waits for must not take effect now."""
        self._is_paused = False
        self._pending.drop_unwanted(self.waiting)
        self.go()

    def stop(self) -> None:
        """Forget everything."""
        self.waiting = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _mind(self, since_s: float, wait_s: float) -> None:
        """See to it that somebody looks in time. A timer that is set stays: it may come early for those who came late."""
        due_s = since_s + wait_s
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        """Send who has waited for long enough."""
        self._timer = None
        if not self.waiting or self._is_paused:
            return
        now_s, since_s = self._clock.monotonic(), self.waiting[0].since_s
        wait_s = GATHER_S if self.has_urgent else PATIENT_S
        if now_s - since_s >= wait_s / 2:
            self.go()
        else:
            self._mind(now_s, wait_s)
