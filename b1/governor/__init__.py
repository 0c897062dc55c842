"""The resource governor: what the box can bear now, and what is given back when it is too much."""

from b1.governor.governor import Governor, GovernorOptions
from b1.governor.large import LargeRequests
from b1.governor.reclaim import Reclaimed, Step
from b1.governor.replacing import Breaker, Replacement
from b1.governor.snapshot import GovernorSnapshot
from b1.governor.watermark import Level, Watermark

__all__ = [
    "Breaker",
    "Governor",
    "GovernorOptions",
    "GovernorSnapshot",
    "LargeRequests",
    "Level",
    "Reclaimed",
    "Replacement",
    "Step",
    "Watermark",
]
