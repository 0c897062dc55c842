"""What the box saw, as text for a person and as JSON for a program. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from b1.box.limits import Limits
from b1.units import format_bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory at one moment, in bytes. The working set is usage without the file pages that cost nothing to drop."""

    working_set_bytes: int = 0
    anonymous_bytes: int = 0
    swap_bytes: int = 0

    def worst(self, other: Sample) -> Sample:
        """Return the larger of each."""
        return Sample(
            max(self.working_set_bytes, other.working_set_bytes),
            max(self.anonymous_bytes, other.anonymous_bytes),
            max(self.swap_bytes, other.swap_bytes),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel counted over the whole run; None where it does not count it.

    Attributes:
        peak_bytes: highest usage, file pages included.
        limit_hits: how often usage met the limit and pages had to be reclaimed.
    """

    peak_bytes: int | None = None
    oom_kills: int | None = None
    limit_hits: int | None = None
    cpu_s: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_s: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `sampled` holds peaks of samples, so a shorter spike is only in `usage.peak_bytes`."""

    command: Sequence[str]
    exit_status: int
    wall_s: float
    mechanism: str
    limits: Limits
    usage: Usage
    sampled: Sample
    leftovers_killed: int
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it with every number in base units."""
        usage, sampled = self.usage, self.sampled
        return {
            "command": list(self.command),
            "exitStatus": self.exit_status,
            "wallSeconds": round(self.wall_s, 3),
            "mechanism": self.mechanism,
            "limits": {
                "memoryBytes": self.limits.memory_bytes,
                "swapBytes": self.limits.swap_bytes,
                "cpus": self.limits.cpus,
            },
            "memory": {
                "peakBytes": usage.peak_bytes,
                "peakWorkingSetBytes": sampled.working_set_bytes,
                "peakAnonymousBytes": sampled.anonymous_bytes,
                "peakSwapBytes": sampled.swap_bytes,
                "oomKills": usage.oom_kills,
                "limitHits": usage.limit_hits,
            },
            "cpu": {
                "seconds": usage.cpu_s,
                "periods": usage.periods,
                "throttledPeriods": usage.throttled_periods,
                "throttledSeconds": usage.throttled_s,
            },
            "leftoversKilled": self.leftovers_killed,
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """Return it in lines that start with ``b1 box:``."""
        limits, usage, sampled = self.limits, self.usage, self.sampled
        swap = f" + {format_bytes(limits.swap_bytes)} swap" if limits.swap_bytes else ", no swap"
        lines = [
            f"{format_bytes(limits.memory_bytes)}{swap}, {limits.cpus:g} cpu ({self.mechanism})",
            f"exit status {self.exit_status} after {self.wall_s:.1f} s",
            f"memory  peak {_size(usage.peak_bytes)} with file pages, working set {_size(sampled.working_set_bytes)}, "
            f"anonymous {_size(sampled.anonymous_bytes)}, swap {_size(sampled.swap_bytes)}",
            f"        out-of-memory kills {_count(usage.oom_kills)}, limit met {_count(usage.limit_hits)} times",
            f"cpu     {_seconds(usage.cpu_s)} used, throttled {_seconds(usage.throttled_s)} in "
            f"{_count(usage.throttled_periods)} of {_count(usage.periods)} periods",
        ]
        if self.leftovers_killed:
            lines.append(f"killed {self.leftovers_killed} processes that the command left behind")
        return "\n".join(f"b1 box: {line}" for line in (*lines, *self.notes))


def _size(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)


def _count(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _seconds(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.2f} s"
