"""Garbage collection whose pause is known before it begins.

A full collection walks every tracked object while the loop stands still, so its pause is predicted from the last one:

    predicted = last pause + blocks allocated since x pause per block

`sys.getallocatedblocks` stands for the number of tracked objects: it costs 50 us where counting them would build a list
of them, and it errs on the safe side. What was frozen after the start is part of no later pause.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass

from b1.clock import Clock

# Measured: 80 ns per tracked object before this process has told us better.
FIRST_GUESS_S = 80e-9
_LEAST_S, _MOST_S = 10e-9, 500e-9
# A pause is compared with the one before it only when this many blocks lie between them.
_LEARN_FROM_BLOCKS = 100_000


@dataclass(frozen=True, slots=True)
class Collected:
    """One collection: whether it was a full one, how long it took, and what a full one was predicted to take."""

    is_full: bool
    took_s: float
    predicted_s: float


class Collector:
    """Watches every full collection of the process, whoever asks for it, and collects within a bound.

    Args:
        pause_limit_s: longest acceptable pause of a full collection.
        blocks: how much there is to walk; replaced in tests.
    """

    def __init__(
        self, clock: Clock, *, pause_limit_s: float, blocks: Callable[[], int] = sys.getallocatedblocks
    ) -> None:
        self._clock = clock
        self._pause_limit_s = pause_limit_s
        self._blocks = blocks
        self._pause_per_block_s = FIRST_GUESS_S
        self._last_pause_s = 0.0
        self._last_blocks = 0
        self._begun_s = 0.0

    def __repr__(self) -> str:
        return f"<Collector predicted_s={self.predicted_s():.3f}>"

    def start(self) -> None:
        """Begin to watch; `stop` is needed afterwards."""
        gc.callbacks.append(self._watch)

    def stop(self) -> None:
        """Stop watching."""
        if self._watch in gc.callbacks:
            gc.callbacks.remove(self._watch)

    def predicted_s(self) -> float:
        """Return how long a full collection would hold the loop now."""
        return self._last_pause_s + max(0, self._blocks() - self._last_blocks) * self._pause_per_block_s

    def collect(self) -> Collected:
        """Collect the young generations always, everything when the predicted pause is acceptable."""
        predicted_s = self.predicted_s()
        is_full = predicted_s < self._pause_limit_s
        begun_s = self._clock.monotonic()
        gc.collect(2 if is_full else 1)
        return Collected(is_full, self._clock.monotonic() - begun_s, predicted_s)

    def learn(self, pause_s: float) -> None:
        """Take the pause of a full collection that has just ended."""
        blocks = self._blocks()
        grown = blocks - self._last_blocks
        if self._last_blocks and grown >= _LEARN_FROM_BLOCKS:
            per_block_s = (pause_s - self._last_pause_s) / grown
            self._pause_per_block_s = min(_MOST_S, max(_LEAST_S, per_block_s))
        self._last_pause_s, self._last_blocks = pause_s, blocks

    def _watch(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._begun_s = self._clock.monotonic()
        else:
            self.learn(self._clock.monotonic() - self._begun_s)
