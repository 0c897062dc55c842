"""The numbers of the watchdog; the plan hands them in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogOptions:
    """What is measured and what counts as blocked.

    Attributes:
        interval_s: time between heartbeats.
        stall_s: a heartbeat that is later than this was blocked; the stall lasted at least as long.
        lagging_s: p99 of the lag over ten seconds above which `Watchdog.is_lagging` says so; below half of it, no more.
        dump_after_s: seconds of the process's own CPU time that one call may hold the interpreter before its stack is
            dumped from C.
        dumps: take such dumps. They need SIGVTALRM and ITIMER_VIRTUAL, of which a process has one each.
        announce_s: a stall that is not over by then is logged while it lasts.
        reports_kept: distinct lines that are remembered.
        reports_per_minute: new lines that are logged in any minute; the others are only remembered.
        stack_lines: frames that a report shows.
    """

    interval_s: float = 0.05
    stall_s: float = 0.1
    lagging_s: float = 0.25
    dump_after_s: float = 0.4
    dumps: bool = True
    announce_s: float = 5.0
    reports_kept: int = 20
    reports_per_minute: int = 6
    stack_lines: int = 30

    def __post_init__(self) -> None:
        for name in ("interval_s", "stall_s", "lagging_s", "dump_after_s", "announce_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("reports_kept", "reports_per_minute", "stack_lines"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
