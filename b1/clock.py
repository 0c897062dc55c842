"""Time as an argument: deadlines use monotonic time, records use wall time."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Protocol


class Clock(Protocol):
    """Two clocks, both in seconds."""

    def monotonic(self) -> float:
        """Return seconds since some start; never goes back."""
        ...

    def wall(self) -> float:
        """Return seconds since 1970-01-01 UTC; may jump."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class ManualClock:
    """A clock for tests: stands still until it is told to move."""

    def __init__(self, *, monotonic: float = 1000.0, wall: float = 1_750_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def __repr__(self) -> str:
        return f"ManualClock(monotonic={self._monotonic}, wall={self._wall})"

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._monotonic += seconds
        self._wall += seconds


# The moment, on the monotonic clock, at which the current request's work has to be over. Set by the deadline layer,
# read by everything that waits (database, store, link), so that no wait outlives the request it serves.
DEADLINE: ContextVar[float | None] = ContextVar("b1_deadline", default=None)


def remaining(clock: Clock, limit_s: float) -> float:
    """Return how long a wait may still take: `limit_s`, less when the request's deadline is nearer, never below 0."""
    deadline = DEADLINE.get()
    if deadline is None:
        return limit_s
    return max(0.0, min(limit_s, deadline - clock.monotonic()))
