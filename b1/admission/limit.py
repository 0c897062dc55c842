"""The adaptive limit on requests that wait. Pure: finished requests in, the limit out.

TCP Vegas applied to requests, as in Netflix' concurrency-limits (`VegasLimit` over `WindowedLimit`). With L the limit,
T0 the time of a request when nothing queues and T the present one, about L(1 - T0/T) of the L requests only wait in line:

    queue = L(1 - min(1, tolerance x T0/T))
    queue <= log10 L, alpha/2  L + beta            nothing queues: find the limit quickly; at first 2 L (slow start)
    queue < alpha              L + log10 L
    alpha .. beta              L
    queue > beta               L - max(log10 L, (queue - beta) / 2)

Slow start: as long as nothing has ever queued the limit says nothing but what it was set to, so it is doubled, once in T0,
since what that did shows only when requests have ended that began after it. It ends too when T grows by more than the
tolerance, whatever T0 says: T0 is too large when the very first requests came in a crowd.

Deviations. T0 is kept per route and T0/T is a ratio of sums over a window: fast and slow routes share one limit. T0 is a
mean of windows that were not pressed, not the least time ever seen: a route that is sometimes answered from a cache has a
least time that says nothing; what varies by nature is tolerated up to 1.5 (the tolerance of Netflix' `Gradient2Limit`).
Under standing pressure one window in 30 s runs at half the limit to learn T0 anew (as BBR and Envoy's gradient do).
Where one queue is known, as for steps that wait for their turn at the loop, it is taken as it is, and what is left of T is
compared with its own T0. Only honest endings are samples: refused, cancelled and streamed answers are none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

WINDOW_S = 0.1
WINDOW_SAMPLES = 10
PROBE_FIRST_S = 1.0
PROBE_EVERY_S = 30.0
PROBE_JITTER = 0.15
# What varies by nature in the time that is a request's own, where the queue for the core is known.
OWN_TOLERANCE = 1.5
# How far one window moves T0: a probe, one that was not pressed, and one under pressure that was faster all the same.
LEARN_PROBE = 0.7
LEARN = 0.15
LEARN_PRESSED = 0.05


@dataclass(frozen=True, slots=True)
class Slack:
    """How much may queue.

    Attributes:
        alpha, beta: requests that may stand in line: below alpha the limit grows, above beta it shrinks.
        tolerance: T may be this many times T0 before anything counts as queueing.
        is_known: the queue for the core is measured; what else takes longer than usual is another queue.
    """

    alpha: float
    beta: float
    tolerance: float
    is_known: bool = False


# Requests that wait for others: their times vary by nature, and a few in line keep the other side busy.
WAITING = Slack(alpha=2.0, beta=4.0, tolerance=1.5)
# Requests that also hold the loop: their queue is the one for the core, and is known.
MIXED = Slack(alpha=1.5, beta=3.0, tolerance=1.0, is_known=True)


class Times:
    """How long the requests of one route take.

    Attributes:
        count, total_s: of the window that is open.
        unloaded_s: T0, in seconds; 0 while nothing is known.
    """

    __slots__ = ("count", "total_s", "unloaded_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.unloaded_s = 0.0

    def __repr__(self) -> str:
        return f"<Times unloaded={self.unloaded_s:.4f} s>"

    def close(self, learn: float) -> tuple[float, float]:
        """End the window; return what its requests would have taken unloaded, and what they took, in seconds.

        Args:
            learn: how far the window's mean moves T0; under pressure only downwards.
        """
        count, total_s = self.count, self.total_s
        self.count, self.total_s = 0, 0.0
        mean_s = total_s / count
        if not self.unloaded_s:
            self.unloaded_s = mean_s
        elif learn != LEARN_PRESSED or mean_s < self.unloaded_s:
            self.unloaded_s += learn * (mean_s - self.unloaded_s)
        return count * self.unloaded_s, total_s


class VegasLimit:
    """The limit and how it moves.

    Args:
        random: jitters the probes, so that the hosts of a fleet do not halve their limits at the same moment.

    Attributes:
        usual_s: T0 of the last window's requests, their mean; 0 while none has closed.
        is_finding: slow start goes on.
    """

    def __init__(self, initial: int, least: int, most: int, *, random: Random, slack: Slack = WAITING) -> None:
        self._slack = slack
        self._estimate = float(initial)
        self._least = least
        self._most = most
        self._random = random
        self._touched: list[Times] = []
        self._samples = 0
        self._peak = 0
        self._queued_s = 0.0
        self._window_end_s = 0.0
        self._probe_at_s: float | None = None
        self.is_finding = not slack.is_known  # nothing has ever queued
        self._double_at_s = 0.0
        self._best_gradient = 0.0  # while finding
        self.usual_s = 0.0
        self.is_probing = False
        self.limit = initial

    def __repr__(self) -> str:
        return f"<VegasLimit {self.limit}{' probing' if self.is_probing else ''}>"

    def take(self, times: Times, elapsed_s: float, in_work: int, now_s: float) -> bool:
        """Take one finished request; say whether the limit was decided anew.

        Args:
            in_work: requests in work when it ended, itself included.
        """
        if not times.count:
            self._touched.append(times)
        times.count += 1
        times.total_s += elapsed_s
        self._samples += 1
        if in_work > self._peak:
            self._peak = in_work
        return now_s >= self._window_end_s and self._close(now_s)

    def take_known(self, times: Times, elapsed_s: float, queued_s: float, in_work: int, now_s: float) -> bool:
        """Take one finished request of whose time it is known how much it stood in line for the core.

        What is left of its time is compared with its own T0: it may have stood in another line, whose length is unknown.
        """
        self._queued_s += queued_s
        return self.take(times, elapsed_s - queued_s, in_work, now_s)

    def _close(self, now_s: float) -> bool:
        if self._samples < WINDOW_SAMPLES:
            return False
        is_pressed = 2 * self._peak >= self.limit  # Netflix' rule: a limit that is not used says nothing about itself
        learn = LEARN_PROBE if self.is_probing else LEARN_PRESSED if is_pressed else LEARN
        expected_s, actual_s = 0.0, self._queued_s
        needs_probes = bool(self._touched) and not self._slack.is_known
        for times in self._touched:
            unloaded_s, total_s = times.close(learn)
            expected_s += min(total_s, OWN_TOLERANCE * unloaded_s) if self._slack.is_known else unloaded_s
            actual_s += total_s
        self.usual_s = expected_s / self._samples
        if learn == LEARN_PRESSED:
            self._move(self._slack.tolerance * expected_s / actual_s if actual_s > 0 else 1.0, now_s)
        self._touched.clear()
        self._samples = self._peak = 0
        self._queued_s = 0.0
        self._window_end_s = now_s + WINDOW_S
        self._maybe_probe(now_s, is_pressed=is_pressed and needs_probes)
        self.limit = max(self._least, int(self._estimate * (0.5 if self.is_probing else 1.0)))
        return True

    def _move(self, gradient: float, now_s: float) -> None:
        estimate, slack = self._estimate, self._slack
        queue = estimate * (1.0 - min(1.0, gradient))
        step = max(1.0, math.log10(estimate))
        is_empty = queue <= min(math.log10(estimate), slack.alpha / 2)
        if self.is_finding:
            self._best_gradient = max(self._best_gradient, gradient)
            has_grown = gradient * slack.tolerance < self._best_gradient
            self.is_finding = is_empty and not has_grown
        if self.is_finding:
            if now_s >= self._double_at_s:
                self._double_at_s = now_s + self.usual_s
                estimate *= 2
        elif is_empty:
            estimate += slack.beta
        elif queue < slack.alpha:
            estimate += step
        elif queue > slack.beta:
            estimate -= max(step, (queue - slack.beta) / 2)
        self._estimate = min(float(self._most), max(float(self._least), estimate))

    def _maybe_probe(self, now_s: float, *, is_pressed: bool) -> None:
        is_due = self._probe_at_s is not None and now_s >= self._probe_at_s
        self.is_probing = is_due and is_pressed  # without pressure every window teaches
        if is_due or self._probe_at_s is None:
            after_s = PROBE_EVERY_S if is_due else PROBE_FIRST_S
            self._probe_at_s = now_s + after_s * (1 + PROBE_JITTER * (2 * self._random.random() - 1))
