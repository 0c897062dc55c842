"""The database's part of the health report: the queue for everybody, the statements for those who hold the token."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from b1.db import DatabaseSnapshot


def postgres_component(database: DatabaseSnapshot | None) -> dict[str, Any]:
    """Return the component: away is a fault, a long queue is shown."""
    if database is None:
        return {"status": "disabled"}
    if database.away_since is None:
        return {"status": "healthy", "saturated": database.load.is_saturated}
    return {"status": "degraded", "away_s": round(database.away_s, 1), "reason": database.away_reason}


def database_report(database: DatabaseSnapshot | None, *, full: bool) -> dict[str, Any] | None:
    """Return the section, None without a database; `full` shows statements, which never hold values."""
    if database is None:
        return None
    load = database.load
    section: dict[str, Any] = {
        "utilisation": round(load.utilisation, 3),
        "saturated": load.is_saturated,
        "wait_ms": {
            "p50": round(load.wait_p50_s * 1000, 2),
            "p95": round(load.wait_p95_s * 1000, 2),
            "p99": round(load.wait_p99_s * 1000, 2),
        },
        "service_ms": {"mean": round(load.service_mean_s * 1000, 2), "p99": round(load.service_p99_s * 1000, 2)},
        "slow_queries": database.slow_queries,
    }
    if full:
        section["statements"] = [asdict(statement) for statement in database.statements]
    return section
