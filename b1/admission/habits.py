"""What is known of a route: does it wait, hold the loop, do both, or run in a thread. Declared by the route, or learned.

Learned from a sample of its requests, by how long they held the loop between two awaits: `b1.admission.steps`. Wall time,
not processor time: `time.sleep` in a coroutine uses no processor and blocks the loop all the same.
"""

from __future__ import annotations

import sys

from b1.admission.lane import Lane
from b1.admission.limit import Times
from b1.admission.options import NORMAL, AdmissionOptions

SAMPLE_EVERY = 64
SAMPLE_AT_FIRST = 4
WEIGHT = 0.15
# A request counts for at most this many times what its route is known for.
OUTLIER = 4.0
# Steps of a request that are told apart; a request that awaits more often has short ones.
STEPS = 32


class Habits:
    """One route.

    Args:
        usual: the lane of its kind: requests that wait, or threads.
        mixed: the lane of requests that wait and hold the loop.
        cpu: the lane of requests that hold the loop, one at a time.
        cpu_bound: declared; None to learn it. False is never measured, and stays in the usual lane.
    """

    __slots__ = (
        "_cpu",
        "_mixed",
        "_options",
        "_steps_s",
        "_usual",
        "cpu_bound",
        "held_s",
        "in_thread",
        "lane",
        "rank",
        "samples",
        "taken_s",
        "template",
        "times",
        "to_sample",
    )  # fmt: skip

    def __init__(
        self,
        template: str,
        options: AdmissionOptions,
        *,
        usual: Lane,
        mixed: Lane,
        cpu: Lane,
        rank: int = NORMAL,
        cpu_bound: bool | None = None,
        in_thread: bool = False,
    ) -> None:
        self.template = template
        self.rank = rank
        self.cpu_bound = cpu_bound
        self.in_thread = in_thread
        self.times = Times()
        self.held_s = 0.0  # mean time for which a request holds the loop
        self.taken_s = 0.0  # mean time of the same requests from start to end
        self.samples = 0
        self._options = options
        self._usual = usual
        self._mixed = usual if in_thread else mixed
        self._cpu = cpu
        self.to_sample = 1 if cpu_bound is not False else sys.maxsize
        self._steps_s: list[float] = []
        self.lane = cpu if cpu_bound else usual

    def __repr__(self) -> str:
        return (
            f"<Habits {self.template} {self.lane.name} held={self.held_s * 1000:.1f} ms of {self.taken_s * 1000:.1f}>"
        )

    def begin_sample(self) -> None:
        """Note that the present request is measured; `to_sample` counts down to the next one."""
        # A heavy route is measured at every request: 2 us are nothing to it, and what is known of it decides.
        is_known = self.samples >= SAMPLE_AT_FIRST and self.held_s < self._options.heavy_s / 2
        self.to_sample = SAMPLE_EVERY if is_known else 1

    def learn(self, held_s: float, taken_s: float) -> None:
        """Take one measured request."""
        weight = WEIGHT if self.samples else 1.0
        if self.samples:  # the machine stood still for a moment: one such request does not make a light route heavy
            held_s = min(held_s, OUTLIER * self.held_s + self._options.heavy_s / 2)
        self.held_s += weight * (held_s - self.held_s)
        self.taken_s += weight * (taken_s - self.taken_s)
        self.samples += 1
        if self.cpu_bound is not None:
            return
        if self.held_s < self._options.heavy_s:
            self.lane = self._usual
        elif self.held_s >= self._options.cpu_share * self.taken_s:
            self.lane = self._cpu
        else:
            self.lane = self._mixed

    def is_long(self, number: int) -> bool:
        """Say whether the step of this number usually is a long one; the others need not wait for a turn."""
        return number < len(self._steps_s) and self._steps_s[number] >= self._options.heavy_s / 2

    def learn_step(self, number: int, step_s: float) -> None:
        """Take the length of one step, from 0."""
        steps_s = self._steps_s
        if number < len(steps_s):
            steps_s[number] += WEIGHT * (step_s - steps_s[number])
        elif number < STEPS:
            steps_s.append(step_s)
