"""Which calls leave when: at the end of their turn of the loop, or together with those of the next turns.

While one write is unanswered the calls of later turns gather, and leave together when its last reply is in, or after a
millisecond. Writing, and reading what comes of it, costs more than what is written, above all under TLS: so a busy process
pays once for several callers. A call that finds nobody on the way never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from b1.clock import Clock
from b1.link.pending import Pending, Turn

# The least that the loop's timers can tell.
GATHER_S = 0.001


class Departures:
    """The turns of one connection that are over and not sent yet.

    Args:
        send: writes turns, in this order.
    """

    __slots__ = ("_clock", "_is_paused", "_loop", "_pending", "_send", "_timer", "waiting")

    def __init__(self, pending: Pending, send: Callable[[Sequence[Turn]], None], clock: Clock) -> None:
        self.waiting: list[Turn] = []
        self._pending = pending
        self._send = send
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Departures(waiting={len(self.waiting)}{', paused' if self._is_paused else ''})"

    def add(self, turn: Turn, *, is_alone: bool) -> None:
        """A turn is over.

        Args:
            is_alone: nothing that was sent is unanswered.
        """
        if is_alone and not self._is_paused:
            self._send((turn,))
            return
        self.waiting.append(turn)
        if self._timer is None and not self._is_paused:
            self._timer = self._loop.call_later(GATHER_S, self._look)

    def go(self) -> None:
        """Send whatever waits: all replies are in."""
        if not self.waiting or self._is_paused:
            return
        turns, self.waiting = self.waiting, []
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
        if self._clock.monotonic() - self.waiting[0].since_s >= GATHER_S / 2:
            self.go()
        else:
            self._timer = self._loop.call_later(GATHER_S, self._look)
