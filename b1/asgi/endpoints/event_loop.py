"""The event loop's part of the health report: the lag for everybody, who blocked it for those who hold the token."""

from __future__ import annotations

from typing import Any

from b1.watchdog import LagSnapshot, Report, WatchdogSnapshot


def event_loop_report(loop: WatchdogSnapshot, *, full: bool) -> dict[str, Any]:
    """Return the section; `full` names lines, routes and requests."""
    section: dict[str, Any] = {
        "lag_ms": _milliseconds(loop.lag),
        "lag_ms_minute": _milliseconds(loop.lag_minute),
        "lagging": loop.is_lagging,
        "utilisation": round(loop.utilisation, 4),
        "stalls": {cause: stalls for cause, stalls, _ in loop.stalls if stalls},
        "watching": loop.is_watching,
        "dumping": loop.is_dumping,
    }
    if full:
        section["reports"] = [_report(report) for report in loop.reports]
    return section


def _milliseconds(lag: LagSnapshot) -> dict[str, float]:
    return {
        name: round(value_s * 1000, 2) for name, value_s in (("p50", lag.p50_s), ("p99", lag.p99_s), ("max", lag.max_s))
    }


def _report(report: Report) -> dict[str, Any]:
    return {
        "cause": report.cause,
        "where": report.where,
        "function": report.function,
        "stack": list(report.stack),
        "route": report.route,
        "request_id": report.request_id,
        "count": report.count,
        "first_s": report.first_s,
        "last_s": report.last_s,
        "worst_ms": round(report.worst_s * 1000, 1),
        "newest_ms": round(report.newest_s * 1000, 1),
    }
