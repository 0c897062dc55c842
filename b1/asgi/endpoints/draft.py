"""The health report in the shape of application/health+json (draft-inadarei-api-health-check-06).

The draft has one list of checks, each with an observed value where there is a number; components without one say their
status alone. Extra members are allowed there, so nothing of our report is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

STATUS = {"healthy": "pass", "degraded": "warn", "unhealthy": "fail", "disabled": "pass"}
_KINDS = {"postgres": "datastore", "redis": "datastore", "memory": "system", "event_loop": "system"}


def draft_report(report: dict[str, Any]) -> dict[str, Any]:
    """Return our report in the draft's shape."""
    time = report["timestamp"]
    checks = {
        name: [{**part, "componentType": _KINDS.get(name, "component"), "status": STATUS[part["status"]], "time": time}]
        for name, part in report["components"].items()
    }
    for name, value, unit in _observed(report):
        component = name.partition(":")[0]
        checks[name] = [
            {
                "componentType": _KINDS.get(component, "component"),
                "observedValue": value,
                "observedUnit": unit,
                "status": checks[component][0]["status"],
                "time": time,
            }
        ]
    return {
        "status": STATUS[report["status"]],
        "version": "1",
        "releaseId": report["version"],
        "checks": checks,
        "performance": report["performance"],
        "budgets": report["budgets"],
    }


def _observed(report: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    memory, lag_ms, budgets = report["memory"], report["event_loop"]["lag_ms"], report["budgets"]
    yield "memory:utilization", memory["ratio"], "ratio"
    yield "memory:used", memory["used_bytes"], "bytes"
    yield "memory:limit", memory["limit_bytes"], "bytes"
    if memory["time_to_limit_s"] is not None:
        yield "memory:timeToLimit", memory["time_to_limit_s"], "s"
    yield "event_loop:lag", lag_ms["p99"], "ms"
    yield "postgres:connections", budgets["db"]["in_use"] + budgets["db"]["idle"], "connections"
    yield "redis:connections", budgets["redis"]["in_use"], "connections"
    if report["performance"]["redis_latency_ms"] is not None:
        yield "redis:responseTime", report["performance"]["redis_latency_ms"], "ms"
