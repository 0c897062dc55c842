"""When warming has to wait, and how long it rests: arithmetic over what other parts say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from b1.cache.warming.options import WarmingOptions

# The governor's level (b1.governor.Level), known by its number because the governor is a sibling.
_ELEVATED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is asked before each warm-up; all of it is cheap and none of it waits.

    Attributes:
        level: of memory pressure, 0 to 5.
        is_saturated: the database has more to do than it can.
        queued: requests that wait for admission.
        is_lagging: the loop lags.
    """

    level: Callable[[], int] = lambda: 0
    is_saturated: Callable[[], bool] = lambda: False
    queued: Callable[[], int] = lambda: 0
    is_lagging: Callable[[], bool] = lambda: False

    def reason(self) -> str:
        """Return why nothing may be warmed now; empty: it may."""
        if self.level() >= _ELEVATED:
            return "memory"
        if self.is_lagging():
            return "lag"
        if self.queued():
            return "queue"
        return "database" if self.is_saturated() else ""


def pause_s(took_s: float, options: WarmingOptions) -> float:
    """Return the rest after a warm-up, so that at most `share` of the time is spent on them."""
    rest_s = took_s * (1.0 / options.share - 1.0)
    return min(max(rest_s, options.pause_least_s), options.pause_most_s)
