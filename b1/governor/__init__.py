"""The resource governor: what the box can bear now, and what is given back when it is too much."""

from b1.governor.governor import Governor, GovernorSnapshot
from b1.governor.loop import LagSnapshot, LoopMonitor
from b1.governor.watermark import Level, Watermark

__all__ = ["Governor", "GovernorSnapshot", "LagSnapshot", "Level", "LoopMonitor", "Watermark"]
