"""Which calls leave when: at the end of their turn of the loop, except those behind whose reply nobody waits.

Those gather for some milliseconds and leave in one write, or sooner with the first call that somebody waits for: writing,
and reading what comes of it, costs more than what is written, above all under TLS.

Tried and not kept: to have all calls gather while a write is unanswered. It cost a fifth more on loopback and half as much
again under TLS and a millisecond, because each caller that waits is one more turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from b1.clock import Clock
from b1.link.pending import Pending, Turn

# What is lost with a killed process is of this time.
PATIENT_S = 0.004
_FULL = 128


class Departures:
    """The turns of one connection that are over and not sent yet.

    Args:
        send: writes turns, in this order.
    """

    __slots__ = ("_calls", "_clock", "_is_paused", "_loop", "_pending", "_send", "_timer", "waiting")

    def __init__(self, pending: Pending, send: Callable[[Sequence[Turn]], None], clock: Clock) -> None:
        self.waiting: list[Turn] = []
        self._pending = pending
        self._send = send
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._is_paused = False
        self._calls = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Departures(waiting={len(self.waiting)}{', paused' if self._is_paused else ''})"

    def add(self, turn: Turn) -> None:
        """A turn is over."""
        is_patient = turn.is_patient
        if not (is_patient or self.waiting or self._is_paused):
            self._send((turn,))
            return
        self.waiting.append(turn)
        self._calls += turn.count
        if not is_patient or self._calls >= _FULL:
            self.go()
        elif self._timer is None and not self._is_paused:
            self._timer = self._loop.call_later(PATIENT_S, self._look)

    def go(self) -> None:
        """Send whatever waits."""
        if not self.waiting or self._is_paused:
            return
        turns, self.waiting = self.waiting, []
        self._calls = 0
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

    def _look(self) -> None:
        """Send who has waited for long enough. The timer is not set for each turn, and so may come early for some."""
        self._timer = None
        if not self.waiting or self._is_paused:
            return
        if self._clock.monotonic() - self.waiting[0].since_s >= PATIENT_S / 2:
            self.go()
        else:
            self._timer = self._loop.call_later(PATIENT_S, self._look)
