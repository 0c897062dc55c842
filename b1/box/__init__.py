"""A box on Linux: run a command inside the memory and CPU limits of a B1, without Docker, and say how it fared."""

from b1.box.limits import PROFILES, Limits, choose_limits
from b1.box.report import Report
from b1.box.running import NotStarted, run_in_box

__all__ = ["PROFILES", "Limits", "NotStarted", "Report", "choose_limits", "run_in_box"]
