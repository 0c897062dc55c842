"""The ladder. Pure: readings in; out come the level, when a reclaim is due, and whether memory cannot be reclaimed.

A step is due on the edge, when a level is reached, and again while the level holds, each time later when the last reclaim
was in vain: fragmented small objects never come back, and collecting them in a loop only adds load.

    excess         = used - what the high level is left at
    irreclaimable  = the last reclaim returned less than 5 % of the excess
"""

from __future__ import annotations

from collections.abc import Mapping

from b1.governor.meter import Reading
from b1.governor.reclaim import Reclaimed
from b1.governor.trend import Trend
from b1.governor.watermark import Level, Watermark

TIME_TO_LIMIT_S = 30.0
REPEAT_AFTER_S = 30.0
REPEAT_AFTER_MOST_S = 300.0
IRRECLAIMABLE_SHARE = 0.05

# How much of everything reclaimable is given up when the level is reached.
SHARES: Mapping[Level, float] = {
    Level.HIGH: 0.5,
    Level.SEVERE: 0.5,
    Level.CRITICAL: 0.5,
    Level.EMERGENCY: 1.0,
}


class Ladder:
    """Where we stand and what is due.

    Args:
        marks: per cent of the limit at which each level begins, by the level's lower-case name.
    """

    def __init__(self, marks: Mapping[str, int]) -> None:
        self._watermark = Watermark(marks)
        self._trend = Trend()
        self._leave_high = self._watermark.leave_ratio(Level.HIGH)
        self._was_injected = False
        self._is_edge = False
        self._repeat_after_s = REPEAT_AFTER_S
        self._repeat_at_s = float("inf")
        self._is_announced = False
        self.time_to_limit_s: float | None = None
        self.promoted_by: str | None = None
        self.is_irreclaimable = False

    def __repr__(self) -> str:
        return f"<Ladder {self.level.name.lower()} promoted_by={self.promoted_by}>"

    @property
    def level(self) -> Level:
        """The level that holds now."""
        return self._watermark.level

    @property
    def slope_bytes_per_s(self) -> float:
        """How fast memory grows over the last ten seconds."""
        return self._trend.slope_bytes_per_s

    def take(self, reading: Reading, now_s: float) -> Level:
        """Take one sample and return the level that holds now."""
        before = self.level
        self._follow(reading, now_s)
        self.promoted_by = self._promotion(reading)
        level = self._watermark.update(reading.ratio, now_s, promoted=self.promoted_by is not None)
        if level > before and level >= Level.HIGH:
            self._is_edge = True
        if level < Level.HIGH:
            self._forget()
        return level

    def is_due(self, now_s: float) -> bool:
        """Say whether a reclaim should begin now."""
        return self.level >= Level.HIGH and (self._is_edge or now_s >= self._repeat_at_s)

    def begin(self) -> float:
        """Note that a reclaim begins; return the share of what is held that it takes."""
        self._is_edge = False
        return SHARES.get(self.level, SHARES[Level.HIGH])

    def finish(self, reclaimed: Reclaimed, reading: Reading, now_s: float) -> bool:
        """Note what a reclaim returned; say whether it is time to announce that memory cannot be reclaimed.

        Announced from the severe level on, once until a reclaim helps or the pressure is over.
        """
        self._trend.reset()
        excess = reading.used_bytes - self._leave_high * reading.limit_bytes
        self.is_irreclaimable = excess > 0 and reclaimed.returned_bytes < IRRECLAIMABLE_SHARE * excess
        if self.is_irreclaimable:
            self._repeat_after_s = min(REPEAT_AFTER_MOST_S, self._repeat_after_s * 2)
        else:
            self._repeat_after_s, self._is_announced = REPEAT_AFTER_S, False
        self._repeat_at_s = now_s + self._repeat_after_s
        is_news = self.is_irreclaimable and self.level >= Level.SEVERE and not self._is_announced
        self._is_announced = self._is_announced or is_news
        return is_news

    def _follow(self, reading: Reading, now_s: float) -> None:
        if reading.is_injected != self._was_injected:
            self._was_injected = reading.is_injected
            self._trend.reset()
        self._trend.add(now_s, reading.used_bytes)
        self.time_to_limit_s = self._trend.time_to_limit_s(reading.limit_bytes)

    def _promotion(self, reading: Reading) -> str | None:
        if reading.is_injected:
            return None  # staging asks for a level, and gets that one
        if self.time_to_limit_s is not None and self.time_to_limit_s < TIME_TO_LIMIT_S:
            return "time-to-limit"
        return reading.stall.reason

    def _forget(self) -> None:
        self._is_edge = self._is_announced = self.is_irreclaimable = False
        self._repeat_after_s, self._repeat_at_s = REPEAT_AFTER_S, float("inf")
