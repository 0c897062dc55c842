"""How slowly a client may send its body or read its answer, and the timer that ends whoever is slower.

A transfer has an allowance of time. Time uses it up while the client is the one who is waited for, each byte earns some
back, and it is never more than at the beginning: a body that stops is given up after `grace_s`, however much of it came
before, and so is one that drips. (Apache's `MinRate` and Kestrel's `MinRequestBodyDataRate` look at the mean since the
beginning, so 30 MB that came fast would buy a silence of hours.)
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass

# Looks per grace: a client is given up at most this part of the grace late.
LOOKS = 5


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """The slowest client that is served.

    Attributes:
        least_bytes_per_s: what a transfer has to make on average, in either direction.
        grace_s: how long it may be below that, or stand still.
    """

    least_bytes_per_s: float = 500.0
    grace_s: float = 10.0


class Pace:
    """The allowance of one transfer. Arithmetic."""

    __slots__ = ("_left_s", "_limits")

    def __init__(self, limits: PaceLimits) -> None:
        self._limits = limits
        self._left_s = limits.grace_s

    def __repr__(self) -> str:
        return f"<Pace left={self._left_s:.1f} s>"

    def is_too_slow(self, took_s: float, moved_bytes: int) -> bool:
        """Take what was moved since the last look; say whether the allowance is used up."""
        earned_s = max(0, moved_bytes) / self._limits.least_bytes_per_s
        self._left_s = min(self._limits.grace_s, self._left_s - took_s + earned_s)
        return self._left_s <= 1e-6  # the looks add up to the grace, but for the rounding


class PaceTimer:
    """Looks at one direction of one connection while something is under way there.

    Args:
        moved: bytes moved since the connection was made; None when nobody is waiting for the client now, and the time
            since the last look does not count.
        is_over: nothing is under way any more; asked at each look, so that the end of a transfer costs nothing.
        end: called once, when the client is too slow.
    """

    __slots__ = ("_before", "_end", "_is_over", "_limits", "_loop", "_moved", "_pace", "_timer")

    def __init__(
        self,
        loop: AbstractEventLoop,
        limits: PaceLimits,
        moved: Callable[[], int | None],
        *,
        is_over: Callable[[], bool],
        end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._moved = moved
        self._is_over = is_over
        self._end = end
        self._pace = Pace(limits)
        self._before = 0
        self._timer: TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<PaceTimer {self._pace!r} running={self.is_running}>"

    @property
    def is_running(self) -> bool:
        return self._timer is not None

    def start(self) -> None:
        """Begin to look at a transfer; the earlier one of this connection is forgotten."""
        self.stop()
        self._pace = Pace(self._limits)
        self._before = self._moved() or 0
        self._wait()

    def stop(self) -> None:
        """Look no more; harmless when it does not run."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.call_later(self._limits.grace_s / LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._is_over():
            return
        moved = self._moved()
        if moved is not None:
            before, self._before = self._before, moved
            if self._pace.is_too_slow(self._limits.grace_s / LOOKS, moved - before):
                self._end()
                return
        self._wait()
