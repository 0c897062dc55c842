"""The event loop's lag, and who blocked it."""

from b1.watchdog.causes import Cause, Running
from b1.watchdog.lag import LagSnapshot
from b1.watchdog.options import WatchdogOptions
from b1.watchdog.reports import Report
from b1.watchdog.watchdog import Watchdog, WatchdogSnapshot

__all__ = ["Cause", "LagSnapshot", "Report", "Running", "Watchdog", "WatchdogOptions", "WatchdogSnapshot"]
