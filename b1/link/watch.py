"""The one timer of a connection: it looks at the call that is due first, and never at one that was answered in time.

libuv runs timers before it reads sockets, so after the loop was blocked a call looks overdue whose reply has long
arrived. What is due is therefore looked at a second time, after the sockets have been read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from b1.clock import Clock

# A deadline is met to within this, given a loop that is not blocked.
RESOLUTION_S = 0.01
_STEP_S = 0.005
_GRACE_S = 0.002


class Watch:
    """Calls `expire` when something is due.

    Args:
        clock: of the due times.
        next_due_s: gives the next due time; None when nothing is to be waited for.
        expire: deals with everything that is due at the given time.
    """

    __slots__ = ("_clock", "_due_s", "_expire", "_loop", "_next_due_s", "_timer")

    def __init__(self, clock: Clock, next_due_s: Callable[[], float | None], expire: Callable[[float], None]) -> None:
        self._clock = clock
        self._next_due_s = next_due_s
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def __repr__(self) -> str:
        return f"Watch({'idle' if self._timer is None else f'due at {self._due_s:.3f}'})"

    def mind(self, due_s: float, now_s: float) -> None:
        """Something new is due then; costs a comparison when something else is due before."""
        if self._timer is None or due_s < self._due_s:
            self._set(due_s, now_s)

    def restart(self) -> None:
        """Everything may have another due time now."""
        self.stop()
        self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, due_s: float, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        # Not for each call on its own: those that are due at about the same time are dealt with together.
        self._timer = self._loop.call_later(max(due_s - now_s, _STEP_S), self._look)

    def _look(self) -> None:
        self._timer = None
        due_s = self._next_due_s()
        if due_s is None:
            return
        now_s = self._clock.monotonic()
        if due_s > now_s:
            self._set(due_s, now_s)
        else:
            self._due_s = due_s
            self._timer = self._loop.call_later(_GRACE_S, self._look_once_more)

    def _look_once_more(self) -> None:
        self._timer = None
        now_s = self._clock.monotonic()
        self._expire(now_s)
        due_s = self._next_due_s()
        if due_s is not None:
            self.mind(due_s, now_s)
