"""Levels of memory pressure with hysteresis. Pure: a sample in, the level out.

Up at once after two samples in a row, down only after the pressure has stayed five points below the mark for ten seconds:
a level that flaps would evict and alert on every breath. A sample may be promoted: it then counts one level higher.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

LEAVE_BELOW_POINTS = 5
LEAVE_AFTER_S = 10.0
ENTER_AFTER_SAMPLES = 2


class Level(enum.IntEnum):
    """How hard memory is pressed; the number is the metric's value."""

    NORMAL = 0
    ELEVATED = 1
    HIGH = 2
    SEVERE = 3
    CRITICAL = 4
    EMERGENCY = 5


class Watermark:
    """The present level.

    Args:
        marks: per cent of the limit at which each level begins, by the level's lower-case name.
    """

    def __init__(self, marks: Mapping[str, int]) -> None:
        self._marks = [(Level[name.upper()], percent / 100) for name, percent in marks.items()]
        self.level = Level.NORMAL
        self._above = 0
        self._calm_since_s: float | None = None

    def __repr__(self) -> str:
        return f"<Watermark {self.level.name.lower()}>"

    def update(self, ratio: float, now_s: float, *, promoted: bool = False) -> Level:
        """Take one sample (used / limit) and return the level that holds now.

        Args:
            promoted: act one level early, because the limit is near in time or the machine stalls.
        """
        reached = self._level_at(ratio, promoted)
        if reached > self.level:
            self._calm_since_s = None
            self._above += 1
            if self._above >= ENTER_AFTER_SAMPLES:
                self._above, self.level = 0, reached
            return self.level
        self._above = 0
        self._maybe_leave(self._level_at(ratio + LEAVE_BELOW_POINTS / 100, promoted), now_s)
        return self.level

    def _maybe_leave(self, calm: Level, now_s: float) -> None:
        if calm >= self.level:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        elif now_s - self._calm_since_s >= LEAVE_AFTER_S:
            self.level, self._calm_since_s = calm, None

    def leave_ratio(self, level: Level) -> float:
        """Return the share of the limit below which `level` is left.

        Raises:
            KeyError: the level has no mark.
        """
        return dict(self._marks)[level] - LEAVE_BELOW_POINTS / 100

    def _level_at(self, ratio: float, promoted: bool) -> Level:
        level = max((level for level, mark in self._marks if ratio >= mark), default=Level.NORMAL)
        return Level(min(level + promoted, Level.EMERGENCY))
