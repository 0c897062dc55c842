"""What is remembered of stalls: one report per line, the newest twenty, and how many of each cause there were."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from b1.watchdog.causes import Cause, Running
from b1.watchdog.frames import Line, short_path

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Report:
    """A line that blocked the loop, or a cause that is nobody's.

    Attributes:
        cause: a `Cause`'s value, of the newest stall.
        file, line, function: whom to blame; None when no line is at fault.
        stack: in words, innermost first, of the longest stall.
        route, request_id: of the request that ran in the longest stall; None outside of requests.
        first_s, last_s: wall time of the first and the newest stall's end.
        worst_s, newest_s: how long the loop stood still, at least.
    """

    cause: str
    file: str | None
    line: int | None
    function: str | None
    stack: tuple[str, ...]
    route: str | None
    request_id: str | None
    first_s: float
    last_s: float
    worst_s: float
    newest_s: float
    count: int = 1

    @property
    def where(self) -> str | None:
        """The line to blame, as ``file:line``."""
        return f"{self.file}:{self.line}" if self.file is not None else None


@dataclass(frozen=True, slots=True)
class Finding:
    """One stall, judged."""

    cause: Cause
    line: Line | None
    stack: tuple[str, ...]
    running: Running | None
    at_s: float
    lasted_s: float


class Reports:
    """Merges findings of one line, forgets the report that was quiet longest, and says which are worth a log line.

    Args:
        kept: reports that are remembered.
        per_minute: new reports that `add` calls worth logging in any minute.
    """

    def __init__(self, *, kept: int, per_minute: int) -> None:
        self._kept = kept
        self._per_minute = per_minute
        self._logged: deque[float] = deque(maxlen=per_minute)
        self._by_place: dict[object, Report] = {}
        self._counts = dict.fromkeys(Cause, 0)
        self._seconds = dict.fromkeys(Cause, 0.0)
        self.silenced = 0

    def __repr__(self) -> str:
        return f"<Reports kept={len(self._by_place)} stalls={sum(self._counts.values())}>"

    def add(self, finding: Finding) -> tuple[Report, bool]:
        """Take a stall; return its report, and whether it is new and within the rate."""
        self._counts[finding.cause] += 1
        self._seconds[finding.cause] += finding.lasted_s
        line = finding.line
        place = (line.file, line.number) if line is not None else finding.cause
        known = self._by_place.pop(place, None)
        report = self._by_place[place] = _first(finding) if known is None else _again(known, finding)
        if len(self._by_place) > self._kept:
            del self._by_place[next(iter(self._by_place))]  # in order of the newest stall
        return report, known is None and self._may_log(finding.at_s)

    def newest_first(self) -> tuple[Report, ...]:
        """Return the reports."""
        return tuple(self._by_place.copy().values())[::-1]

    def counts(self) -> tuple[tuple[str, int, float], ...]:
        """Return (cause, stalls, seconds in them), every cause."""
        return tuple((cause.value, self._counts[cause], self._seconds[cause]) for cause in Cause)

    def _may_log(self, now_s: float) -> bool:
        if len(self._logged) == self._per_minute and now_s - self._logged[0] < MINUTE_S:
            self.silenced += 1
            return False
        self._logged.append(now_s)
        return True


def _first(finding: Finding) -> Report:
    line, running = finding.line, finding.running
    return Report(
        cause=finding.cause.value,
        file=short_path(line.file) if line else None,
        line=line.number if line else None,
        function=line.function if line else None,
        stack=finding.stack,
        route=running.route if running else None,
        request_id=running.request_id if running else None,
        first_s=finding.at_s,
        last_s=finding.at_s,
        worst_s=finding.lasted_s,
        newest_s=finding.lasted_s,
    )


def _again(known: Report, finding: Finding) -> Report:
    """Keep the first time and the count; the longest stall's stack and request tell most."""
    report = known if finding.lasted_s <= known.worst_s else replace(_first(finding), first_s=known.first_s)
    return replace(
        report,
        cause=finding.cause.value,
        count=known.count + 1,
        last_s=finding.at_s,
        newest_s=finding.lasted_s,
    )
