"""Arithmetic: the loop's lag over ten and sixty seconds, when it is too much, and the share of time its thread computes.

One heartbeat that comes a second late hides nineteen others that would have come late too. They are added: a lag of L
counts as L, L - i, L - 2i ... (i the interval), each standing for one interval of time, as HdrHistogram does against
"coordinated omission". So the last 200 samples are the last ten seconds, and a single stall of half a second shows in p99.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WINDOW_S = 10.0
LONG_WINDOW_S = 60.0

# The level ends when p99 is below this share of where it began.
CALM_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class LagSnapshot:
    """Quantiles of the lag, in seconds, over one window."""

    p50_s: float
    p99_s: float
    max_s: float
    samples: int


def quantiles(lags: Iterable[float]) -> LagSnapshot:
    """Return the quantiles of these lags; zeros when there are none."""
    ordered = sorted(lags)
    if not ordered:
        return LagSnapshot(0.0, 0.0, 0.0, 0)
    count = len(ordered)
    return LagSnapshot(ordered[count // 2], ordered[min(count - 1, count * 99 // 100)], ordered[-1], count)


class LagWindow:
    """The lags of the last minute, one per heartbeat that should have come. Written by the loop's thread alone.

    States: calm -> lagging when more than 1 % of the last ten seconds lagged by more than `lagging_s`;
    lagging -> calm when no more than 1 % lagged by more than half of it.
    """

    def __init__(self, *, interval_s: float, lagging_s: float) -> None:
        self._interval_s = interval_s
        self._high_s = lagging_s
        self._low_s = lagging_s * CALM_SHARE
        self._short = max(1, round(WINDOW_S / interval_s))
        self._lags = array("f", bytes(4 * max(1, round(LONG_WINDOW_S / interval_s))))
        self._filled = 0
        self._next = 0
        self._above_high = 0
        self._above_low = 0
        self.is_lagging = False

    def __repr__(self) -> str:
        return f"<LagWindow samples={self._filled} lagging={self.is_lagging}>"

    def record(self, lag_s: float) -> None:
        """Take one heartbeat that came `lag_s` late."""
        if lag_s < self._interval_s:
            self._append(lag_s)
        else:
            for missed_s in self._missed(lag_s):
                self._append(missed_s)
        allowed = min(self._filled, self._short) // 100
        self.is_lagging = (self._above_low if self.is_lagging else self._above_high) > allowed

    def short(self, overdue_s: float = 0.0) -> LagSnapshot:
        """Return the last ten seconds, a heartbeat that is overdue at this moment included."""
        return self._over(self._short, overdue_s)

    def long(self, overdue_s: float = 0.0) -> LagSnapshot:
        """Return the last minute."""
        return self._over(len(self._lags), overdue_s)

    def _over(self, window: int, overdue_s: float) -> LagSnapshot:
        extra = list(self._missed(overdue_s)) if overdue_s > self._interval_s else []
        count = min(self._filled, window) - len(extra)
        return quantiles([*extra, *(self._back(steps) for steps in range(1, count + 1))])

    def _missed(self, lag_s: float) -> Iterator[float]:
        """Yield the lag of every heartbeat that this one stands for, the largest last; never more than the window."""
        more = min(int(lag_s / self._interval_s), len(self._lags) - 1)
        for step in range(more, -1, -1):
            yield max(0.0, lag_s - step * self._interval_s)

    def _append(self, lag_s: float) -> None:
        if self._filled >= self._short:
            self._count(self._back(self._short), -1)
        self._lags[self._next] = lag_s
        self._next = (self._next + 1) % len(self._lags)
        self._filled = min(self._filled + 1, len(self._lags))
        self._count(self._back(1), 1)  # read back: what leaves must be the number that came, rounded to 32 bits

    def _back(self, steps: int) -> float:
        return self._lags[(self._next - steps) % len(self._lags)]

    def _count(self, lag_s: float, by: int) -> None:
        if lag_s > self._high_s:
            self._above_high += by
        if lag_s > self._low_s:
            self._above_low += by


class Utilisation:
    """The share of the last ten seconds in which the loop's thread was on a core, from its own CPU clock.

    Computed from the ends of the window, so that an hour of idling does not hide a busy minute.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()

    def record(self, now_s: float, cpu_s: float) -> None:
        """Take what both clocks say, at most once a second."""
        if self._marks and now_s - self._marks[-1][0] < 1.0:
            return
        self._marks.append((now_s, cpu_s))
        while now_s - self._marks[0][0] > WINDOW_S + 1.0:
            self._marks.popleft()

    def share(self, now_s: float, cpu_s: float) -> float:
        """Return the share, 0 to 1, up to this moment."""
        if not self._marks:
            return 0.0
        began_s, began_cpu_s = self._marks[0]
        return min(1.0, max(0.0, (cpu_s - began_cpu_s) / (now_s - began_s))) if now_s > began_s else 0.0
