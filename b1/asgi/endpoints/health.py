"""Probes and the health report: built from snapshots, never from a connection of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from b1 import __version__
from b1.admission import AdmissionSnapshot
from b1.alerts import AlertsSnapshot
from b1.asgi.endpoints.admission import admission_report
from b1.asgi.endpoints.cache_stats import Caches, cache_component
from b1.asgi.endpoints.database import database_report, postgres_component
from b1.asgi.endpoints.draft import draft_report
from b1.asgi.endpoints.event_loop import event_loop_report
from b1.asgi.endpoints.memory import memory_report
from b1.cache import CacheSnapshot
from b1.db import DatabaseSnapshot
from b1.governor import GovernorSnapshot
from b1.idempotency import IdempotencySnapshot
from b1.limiter import LimiterSnapshot
from b1.store.base import StoreSnapshot
from b1.watchdog import WatchdogSnapshot

POSTGRES_AWAY_S = 15.0


@dataclass(frozen=True, slots=True)
class LastReplacement:
    """The replacement that brought this worker here.

    Attributes:
        kind: ``handover`` or ``serial``.
        reason: such as ``memory`` or ``SIGHUP``; of a bounded set.
        pause_s: how long nobody accepted, None where that is not known.
    """

    kind: str
    reason: str
    pause_s: float | None
    wall_s: float


@dataclass(frozen=True, slots=True)
class Workers:
    """What became of the workers of this master.

    Attributes:
        endings: how many ended, by cause (`b1.server.ending.CAUSES`).
        replacements: how many were replaced, by kind and reason.
        is_tripped: the breaker allows no further replacement.
    """

    endings: Mapping[str, int] = field(default_factory=dict)
    replacements: Mapping[tuple[str, str], int] = field(default_factory=dict)
    last: LastReplacement | None = None
    is_tripped: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Everything the report needs, read at one moment.

    `phase`: ``starting``, ``running``, ``draining`` or ``stopped``. `database` is None when not configured;
    `cache_layers` are (name, hits, misses); `refusals` are requests that the protocol refused, by code; `workers` is None
    where no server of ours runs us; `caches` are the caches' other snapshots.
    """

    phase: str
    wall_s: float
    database: DatabaseSnapshot | None
    is_redis_configured: bool
    redis_in_use: int
    redis_reserve_used: int
    store: StoreSnapshot
    limiter_enabled: bool
    idempotency: IdempotencySnapshot | None
    cache: CacheSnapshot
    cache_layers: tuple[tuple[str, int, int], ...]
    memory: GovernorSnapshot
    alerts: AlertsSnapshot
    loop: WatchdogSnapshot
    db_limit: int
    redis_limit: int
    refusals: Mapping[str, int] = field(default_factory=dict)
    admission: AdmissionSnapshot | None = None
    limiter: LimiterSnapshot | None = None
    workers: Workers | None = None
    caches: Caches | None = None


class Health:
    """Answers /live, /ready, /health and /health/detailed.

    Args:
        read: returns the present state; snapshots only.
    """

    def __init__(self, read: Callable[[], State]) -> None:
        self._read = read

    def live(self) -> tuple[int, dict[str, Any]]:
        """Say whether the process should live: a stopped runtime is the one state that a restart cures."""
        is_alive = self._read().phase != "stopped"
        return (200 if is_alive else 503), {"status": "alive" if is_alive else "dead"}

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Say whether traffic should come, and why not."""
        reason = not_ready_reason(self._read())
        return (200, {"status": "ready"}) if reason is None else (503, {"status": "not ready", "reason": reason})

    def short(self) -> tuple[int, dict[str, Any]]:
        """Return the verdict; 503 only when `live` is, since App Service replaces an instance on this."""
        state = self._read()
        verdict = overall(state)
        return (503 if verdict == "unhealthy" else 200), {"status": verdict, "timestamp": _iso(state.wall_s)}

    def detailed(self, *, full: bool = False) -> tuple[int, dict[str, Any]]:
        """Return the whole report; redacted unless `full`: no routes, no ids, no addresses."""
        state = self._read()
        verdict = overall(state)
        return (503 if verdict == "unhealthy" else 200), {
            "status": verdict,
            "timestamp": _iso(state.wall_s),
            "version": __version__,
            "components": components(state),
            "performance": {
                "redis_latency_ms": state.store.latency_ms,
                "caching_enabled": state.cache.enabled,
                "rate_limiting_enabled": state.limiter_enabled,
                "idempotency_enabled": state.idempotency is not None,
            },
            "budgets": _budgets(state),
            "database": database_report(state.database, full=full),
            "memory": memory_report(state.memory),
            "event_loop": event_loop_report(state.loop, full=full),
            "admission": admission_report(state.admission, full=full),
        }

    def draft(self) -> tuple[int, dict[str, Any]]:
        """Return the same in the shape of application/health+json (draft-inadarei-api-health-check-06)."""
        status, report = self.detailed()
        return status, draft_report(report)


def not_ready_reason(state: State) -> str | None:
    """Return why no traffic should come, or None."""
    if state.phase != "running":
        return state.phase
    if state.memory.level in ("critical", "emergency"):
        return "memory"
    database = state.database
    if database is not None and database.away_s >= POSTGRES_AWAY_S:
        return "postgres"
    return None


def overall(state: State) -> str:
    """Return ``healthy``, ``degraded`` or ``unhealthy``."""
    if state.phase == "stopped":
        return "unhealthy"
    is_degraded = any(part["status"] == "degraded" for part in components(state).values())
    return "degraded" if is_degraded or not_ready_reason(state) is not None else "healthy"


def components(state: State) -> dict[str, dict[str, Any]]:
    """Return every component with its status; what is not configured says ``disabled`` and is no fault."""
    is_redis_away = state.is_redis_configured and not state.store.connected
    is_pressed = state.memory.level not in ("normal", "elevated")
    return {
        "api_gateway": _api_gateway(state),
        "postgres": postgres_component(state.database),
        "redis": _redis(state, is_redis_away),
        "rate_limiter": _switchable(state.limiter_enabled, is_redis_away, mode=state.store.mode),
        "idempotency": _switchable(state.idempotency is not None, is_redis_away, mode=state.store.mode),
        "cache": cache_component(state, is_redis_away=is_redis_away),
        "streams": {"status": "disabled"},
        "jobs": {"status": "disabled"},
        "memory": {"status": "degraded" if is_pressed else "healthy", "level": state.memory.level},
        "event_loop": {"status": "degraded" if state.loop.is_lagging else "healthy"},
        "guardrails": _guardrails(state),
    }


def _api_gateway(state: State) -> dict[str, Any]:
    part: dict[str, Any] = {"status": "healthy" if state.phase == "running" else "degraded", "phase": state.phase}
    workers = state.workers
    if workers is None:
        return part
    if workers.is_tripped:
        part["status"] = "degraded"
    last = workers.last
    part["workers"] = {
        "endings": dict(workers.endings),
        "replacements": sum(workers.replacements.values()),
        "replacements_tripped": workers.is_tripped,
        "last_replacement": None if last is None else {
            "kind": last.kind, "reason": last.reason, "at": _iso(last.wall_s),
            "pause_s": None if last.pause_s is None else round(last.pause_s, 4),
        },
    }  # fmt: skip
    return part


def _guardrails(state: State) -> dict[str, Any]:
    alerts = state.alerts
    return {
        "status": "degraded" if alerts.is_disabled else "healthy",
        "alerts_firing": len(alerts.firing),
        "alerts_waiting": alerts.waiting,
        "alerts_dropped": alerts.dropped,
        "alert_receiver": "none" if not alerts.has_receiver else "gone" if alerts.is_disabled else "in use",
        "refused_by_protocol": dict(state.refusals),
    }


def _redis(state: State, is_away: bool) -> dict[str, Any]:
    if not state.is_redis_configured:
        return {"status": "disabled"}
    return {"status": "degraded" if is_away else "healthy", "latency_ms": state.store.latency_ms}


def _switchable(is_on: bool, is_redis_away: bool, *, mode: str) -> dict[str, Any]:
    if not is_on:
        return {"status": "disabled"}
    return {"status": "degraded" if is_redis_away else "healthy", "mode": mode}


def _budgets(state: State) -> dict[str, Any]:
    database = state.database
    return {
        "db": {
            "limit": state.db_limit,
            "in_use": database.in_use if database else 0,
            "idle": database.idle if database else 0,
            "waiting": database.waiting if database else 0,
        },
        "redis": {
            "limit": state.redis_limit,
            "in_use": state.redis_in_use,
            "reserve_used": state.redis_reserve_used,
        },
    }


def _iso(wall_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))
