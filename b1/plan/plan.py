"""Pure: host and settings in, every number of the profile out, each with one sentence of reason.

Nobody else computes a budget. The same host and settings give the same plan; nothing here reads a clock or a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from b1.host import Host
from b1.plan import areas
from b1.plan.areas import WATERMARKS
from b1.settings import Settings
from b1.units import format_bytes


def _number(unit: str, area: str) -> Any:
    return field(metadata={"unit": unit, "area": area})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every number of the profile. `reasons` has one sentence per field."""

    memory_limit_bytes: int = _number("bytes", "memory")
    cache_limit_bytes: int = _number("bytes", "memory")
    store_limit_bytes: int = _number("bytes", "memory")
    body_limit_bytes: int = _number("bytes", "requests")
    header_limit_bytes: int = _number("bytes", "requests")
    header_limit_fields: int = _number("fields", "requests")
    header_timeout_s: float = _number("s", "requests")
    transfer_least_bytes_per_s: float = _number("bytes/s", "requests")
    transfer_grace_s: float = _number("s", "requests")
    request_deadline_s: float = _number("s", "requests")
    concurrent_requests: int = _number("requests", "requests")
    admission_initial: int = _number("requests", "requests")
    admission_reading: int = _number("requests", "requests")
    admission_queue: int = _number("requests", "requests")
    admission_standing_s: float = _number("s", "requests")
    admission_alarm_s: float = _number("s", "requests")
    admission_alarm_requests: int = _number("requests", "requests")
    admission_target_s: float = _number("s", "requests")
    admission_patience_s: float = _number("s", "requests")
    admission_opening_s: float = _number("s", "requests")
    admission_sockets: int = _number("connections", "requests")
    workers: int = _number("processes", "server")
    backlog: int = _number("connections", "server")
    keepalive_s: int = _number("s", "server")
    graceful_stop_s: int = _number("s", "server")
    worker_timeout_s: int = _number("s", "server")
    gc_threshold: int = _number("objects", "server")
    threads: int = _number("threads", "server")
    threads_reserved: int = _number("threads", "server")
    db_connections: int = _number("connections", "database")
    db_queue: int = _number("waiters", "database")
    db_acquire_s: float = _number("s", "database")
    db_statement_s: float = _number("s", "database")
    db_idle_transaction_s: float = _number("s", "database")
    db_idle_lifetime_s: float = _number("s", "database")
    db_connection_check_ms: int = _number("ms", "database")
    db_silence_s: float = _number("s", "database")
    db_slow_query_s: float = _number("s", "database")
    redis_connections: int = _number("connections", "redis")
    redis_deadline_s: float = _number("s", "redis")
    redis_pending: int = _number("calls", "redis")
    idempotency_ttl_s: int = _number("s", "idempotency")
    idempotency_lease_s: float = _number("s", "idempotency")
    idempotency_wait_s: float = _number("s", "idempotency")
    idempotency_waiters: int = _number("requests", "idempotency")
    idempotency_running: int = _number("requests", "idempotency")
    idempotency_spool_memory_bytes: int = _number("bytes", "idempotency")
    idempotency_spool_disk_bytes: int = _number("bytes", "idempotency")
    identity_ttl_s: int = _number("s", "cache")
    cache_tenant_share: float = _number("of the cache", "cache")
    cache_away_s: float = _number("s", "cache")
    cache_heartbeat_s: float = _number("s", "cache")
    warming_start_s: float = _number("s", "cache")
    warming_at_start: int = _number("loads", "cache")
    warming_share: float = _number("of the time", "cache")
    warming_load_s: float = _number("s", "cache")
    warming_held_s: float = _number("s", "cache")
    warming_queue: int = _number("loads", "cache")
    warming_tracked: int = _number("names", "cache")
    warming_top: int = _number("names", "cache")
    warming_users: int = _number("users", "cache")
    loop_sample_s: float = _number("s", "governor")
    loop_stall_s: float = _number("s", "governor")
    loop_lagging_s: float = _number("s", "governor")
    loop_dump_s: float = _number("s", "governor")
    loop_reports: int = _number("lines", "governor")
    loop_reports_per_minute: int = _number("lines", "governor")
    memory_sample_s: float = _number("s", "governor")
    memory_pressed_s: float = _number("s", "governor")
    memory_reserve_bytes: int = _number("bytes", "governor")
    memory_ballast_bytes: int = _number("bytes", "governor")
    memory_collection_s: float = _number("s", "governor")
    memory_report_apart_s: float = _number("s", "governor")
    handover_limit_bytes: int = _number("bytes", "governor")
    alert_cooldown_s: float = _number("s", "alerts")
    alert_settle_s: float = _number("s", "alerts")
    alert_overlap_s: float = _number("s", "alerts")
    alert_queue: int = _number("messages", "alerts")
    alert_keep_s: float = _number("s", "alerts")
    alert_attempt_s: float = _number("s", "alerts")
    alert_backoff_first_s: float = _number("s", "alerts")
    alert_backoff_most_s: float = _number("s", "alerts")
    alert_retry_after_most_s: float = _number("s", "alerts")
    alert_flush_s: float = _number("s", "alerts")
    alert_handler_s: float = _number("s", "alerts")
    reasons: Mapping[str, str] = field(metadata={"unit": "", "area": ""}, repr=False)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return (area, name, value in words, reason) in order, for the table of ``b1 plan``."""
        return [
            (f.metadata["area"], f.name, _in_words(getattr(self, f.name), f.metadata["unit"]), self.reasons[f.name])
            for f in fields(self)
            if f.name != "reasons"
        ]

    def watermark_bytes(self, level: str) -> int:
        """Return the memory, in bytes, at which `level` begins.

        Raises:
            KeyError: no such level.
        """
        return self.memory_limit_bytes * WATERMARKS[level] // 100


def make_plan(host: Host, settings: Settings) -> Plan:
    """Derive every number from the box and the wishes."""
    numbers: dict[str, tuple[Any, str]] = {
        **areas.memory(host, settings),
        **areas.requests(settings),
        **areas.server(host),
        **areas.database(settings),
        **areas.state(host, settings),
        **areas.governor(host, settings),
        **areas.alerts(host),
    }
    return Plan(
        **{name: value for name, (value, _) in numbers.items()},
        reasons={name: reason for name, (_, reason) in numbers.items()},
    )


def _in_words(value: Any, unit: str) -> str:
    if unit == "bytes":
        return format_bytes(value)
    return f"{value:g} {unit}" if isinstance(value, float) else f"{value} {unit}"
