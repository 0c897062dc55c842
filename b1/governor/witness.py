"""When to write down what holds the memory, and doing it: once per crisis, in a thread, with the trace if one runs.

A report has its path before it is written: the alert of the same moment names it and waits for nothing.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from b1.clock import Clock
from b1.governor import holdings
from b1.governor.reclaim import OffLoop
from b1.governor.reports import Reports
from b1.governor.snapshot import GovernorSnapshot
from b1.governor.tracing import TraceWindow

log = logging.getLogger("b1.governor")


class Witness:
    """Writes reports.

    Args:
        folder: where reports go; None writes none.
        apart_s: reports that a crisis causes are at least this far apart.
        off_loop: runs a blocking call in a thread.
        requests: returns recent large requests, called on the loop.
    """

    def __init__(
        self,
        clock: Clock,
        folder: Path | None,
        *,
        apart_s: float,
        off_loop: OffLoop,
        requests: holdings.Requests | None,
    ) -> None:
        self._clock = clock
        self._reports = Reports(folder) if folder is not None else None
        self._apart_s = apart_s
        self._off_loop = off_loop
        self._requests = requests
        self._trace = TraceWindow()
        self._next_s = float("-inf")
        self._is_wanted = False
        self._planned: Path | None = None
        self._is_refused = False
        self.last: Path | None = None

    def __repr__(self) -> str:
        return f"<Witness last={self.last.name if self.last else None} trace={self._trace!r}>"

    def want(self) -> None:
        """Ask for a report of a crisis that has just begun; passed over when the last one is recent."""
        now_s = self._clock.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + self._apart_s
            self._is_wanted = True
            if self._reports is not None and not self._is_refused:
                self._planned = self._reports.path_at(self._clock.wall())

    @property
    def path(self) -> Path | None:
        """The report that is about to be written, else the last one; None where none can be."""
        return self._planned or self.last

    async def check(self) -> None:
        """See at the start whether reports can be written: in a crisis it is too late to find another folder."""
        if self._reports is None:
            return
        try:
            await self._off_loop(self._reports.check)
        except OSError as error:
            self._is_refused = True
            log.warning("memory reports cannot be written", extra={"reason": str(error)})

    def is_due(self) -> bool:
        """Say whether a report was asked for, or a trace has come to its end."""
        return self._is_wanted or self._trace.is_over(self._clock.monotonic())

    def trace(self, window_s: float) -> bool:
        """Trace allocations for `window_s`; False if a trace runs already."""
        return self._trace.open(self._clock.monotonic(), window_s)

    def close(self) -> None:
        """End a running trace."""
        self._trace.abandon()

    async def write(self, snapshot: GovernorSnapshot) -> Path | None:
        """Write a report; return the file, or None where reports are off or cannot be written."""
        self._is_wanted = False
        if self._reports is None:
            self._trace.abandon()
            return None
        planned, self._planned = self._planned or self._reports.path_at(self._clock.wall()), None
        gathered = holdings.on_loop(snapshot.held, self._requests)
        try:
            path: Path = await self._off_loop(partial(self._write, self._reports, planned, snapshot, gathered))
        except OSError as error:
            self._is_refused = True
            log.warning("memory report not written", extra={"reason": str(error)})
            return None
        self.last, self._is_refused = path, False
        log.warning("memory report written", extra={"file": path.name})
        return path

    def _write(self, reports: Reports, path: Path, snapshot: GovernorSnapshot, gathered: dict[str, Any]) -> Path:
        report = {
            "written": datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(),
            "pid": os.getpid(),
            "level": snapshot.level,
            "memory": asdict(snapshot),
            **gathered,
            **holdings.off_loop(max(0, snapshot.limit_bytes - snapshot.used_bytes)),
            "trace": self._trace.close(),
        }
        return reports.write(report, path)
