"""Pure: host and settings in, every number of the profile out, each with one sentence of reason.

Nobody else computes a budget. The same host and settings give the same plan; nothing here reads a clock or a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from b1.host import Host
from b1.settings import Settings
from b1.units import KIB, MIB, format_bytes

# Shares of the memory limit at which the governor acts, in per cent, each with its level's name.
WATERMARKS: Mapping[str, int] = {"elevated": 70, "high": 80, "severe": 85, "critical": 90, "emergency": 95}

# A B1 has 1.75 GiB for everything. A bigger development machine must not derive numbers that the B1 could not keep.
B1_MEMORY_BYTES = 1750 * MIB

# The longest stop: requests are waited for, then the application ends in order.
GRACEFUL_STOP_S = 25

# Numbers of one keyed route, where it declares no others: the same on every box.
IDEMPOTENCY_TTL_S = 86_400
IDEMPOTENCY_LEASE_S = 30.0
IDEMPOTENCY_WAIT_S = 2.0

# glibc keeps freed memory in per-thread arenas and below a growing threshold; both numbers bound what it keeps.
ALLOCATOR_ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_MMAP_THRESHOLD_": "131072",
}


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
    request_deadline_s: float = _number("s", "requests")
    concurrent_requests: int = _number("requests", "requests")
    workers: int = _number("processes", "server")
    backlog: int = _number("connections", "server")
    keepalive_s: int = _number("s", "server")
    graceful_stop_s: int = _number("s", "server")
    worker_timeout_s: int = _number("s", "server")
    gc_threshold: int = _number("objects", "server")
    threads: int = _number("threads", "server")
    db_connections: int = _number("connections", "database")
    db_queue: int = _number("waiters", "database")
    db_acquire_s: float = _number("s", "database")
    db_statement_s: float = _number("s", "database")
    db_idle_transaction_s: float = _number("s", "database")
    db_idle_lifetime_s: float = _number("s", "database")
    db_connection_check_ms: int = _number("ms", "database")
    redis_connections: int = _number("connections", "redis")
    redis_deadline_s: float = _number("s", "redis")
    redis_pending: int = _number("calls", "redis")
    idempotency_ttl_s: int = _number("s", "idempotency")
    idempotency_lease_s: float = _number("s", "idempotency")
    idempotency_wait_s: float = _number("s", "idempotency")
    idempotency_waiters: int = _number("requests", "idempotency")
    identity_ttl_s: int = _number("s", "cache")
    loop_sample_s: float = _number("s", "governor")
    memory_sample_s: float = _number("s", "governor")
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
        **_memory(host, settings),
        **_requests(settings),
        **_server(host),
        **_database(settings),
        **_state(settings),
    }
    return Plan(
        **{name: value for name, (value, _) in numbers.items()},
        reasons={name: reason for name, (_, reason) in numbers.items()},
    )


def memory_wish(settings: Settings) -> tuple[int, str]:
    """Return the memory that is planned for at most, in bytes, and whose wish that is; the box may have less."""
    if settings.memory_limit is not None:
        return settings.memory_limit, "B1_MEMORY_LIMIT"
    return B1_MEMORY_BYTES, "a B1's memory"


def state_dir(settings: Settings, temporary: Path) -> Path:
    """Return where reports and small state go; never below App Service's /home, which is a slow network share."""
    return settings.state_dir or temporary / f"b1-{settings.namespace or 'default'}"


def _memory(host: Host, settings: Settings) -> dict[str, tuple[Any, str]]:
    limit, source = host.memory.limit_bytes, f"the least limit above this process ({host.memory.source})"
    wish, whose = memory_wish(settings)
    if wish <= limit:
        limit, source = wish, f"{whose}; this box has {format_bytes(limit)} ({host.memory.source})"
    cache = settings.cache_max or min(64 * MIB, max(4 * MIB, limit // 24))
    cache_reason = (
        "B1_CACHE_MAX"
        if settings.cache_max
        else "1/24 of the limit, at most 64 MiB: the worker itself needs about 100 MiB"
    )
    return {
        "memory_limit_bytes": (limit, source),
        "cache_limit_bytes": (cache, cache_reason),
        "store_limit_bytes": (
            min(32 * MIB, max(2 * MIB, limit // 48)),
            "1/48 of the limit, at most 32 MiB: about 60 000 limiter windows when Redis is away",
        ),
    }


def _requests(settings: Settings) -> dict[str, tuple[Any, str]]:
    return {
        "body_limit_bytes": (
            settings.body_limit or 32 * MIB,
            "B1_BODY_LIMIT" if settings.body_limit else "32 MiB, counted while it streams, with or without a length",
        ),
        "header_limit_bytes": (
            64 * KIB,
            "request line and headers, counted while they arrive; the server has no bound of its own",
        ),
        "header_limit_fields": (100, "more fields than any browser or proxy sends"),
        "header_timeout_s": (10.0, "a header block that takes longer is a slow attack or a dead phone"),
        "request_deadline_s": (30.0, "far below the 230 s at which the front end gives up while the work would go on"),
        "concurrent_requests": (200, "requests in work at once; more would only wait for the one core"),
    }


def _server(host: Host) -> dict[str, tuple[Any, str]]:
    return {
        "graceful_stop_s": _graceful_stop(host),
        "workers": (1, "one core: a second worker doubles the memory and adds no speed"),
        "backlog": (256, "bounds the work that waits in the kernel for clients which have given up"),
        "keepalive_s": (5, "long enough for a browser's next request, short enough to release idle connections"),
        "worker_timeout_s": (60, "a loop that does not turn for a minute is lost"),
        "gc_threshold": (
            20_000,
            "young collections after 20 000 net allocations, not 2 000: requests free their objects by count",
        ),
        "threads": (4, "for password hashing, file work and DNS; each arena costs memory"),
    }


def _graceful_stop(host: Host) -> tuple[int, str]:
    if host.stop_limit_s is None:
        return GRACEFUL_STOP_S, "nobody is known to kill us earlier; longer than any request but a stuck one"
    seconds = max(1, min(GRACEFUL_STOP_S, int(host.stop_limit_s) - 1))
    return seconds, f"a second less than the {host.stop_limit_s:g} s after which the platform kills"


def _database(settings: Settings) -> dict[str, tuple[Any, str]]:
    return {
        "db_connections": (
            settings.db_connections,
            "per host: cores x 2 + 1 of the smallest managed Postgres; more connections only queue inside it",
        ),
        "db_queue": (200, "callers that may wait for a connection; more are refused at once with 503"),
        "db_acquire_s": (5.0, "longest wait for a connection; then 503 DB_BUSY with Retry-After"),
        "db_statement_s": (15.0, "server-side statement_timeout: half of the request's deadline"),
        "db_idle_transaction_s": (10.0, "an abandoned transaction must not hold one of three connections"),
        "db_idle_lifetime_s": (240.0, "outbound address translation forgets idle connections after 4 minutes"),
        "db_connection_check_ms": (200, "the server notices a dead client in mid-query this fast and ends its backend"),
    }


def _state(settings: Settings) -> dict[str, tuple[Any, str]]:
    return {
        "redis_connections": (settings.redis_connections, "per host: one for all work, one kept for emergencies"),
        "redis_deadline_s": (0.25, "a store that takes longer is away; local state decides"),
        "redis_pending": (1024, "calls in flight on the one connection; more are answered from local state"),
        "idempotency_ttl_s": (IDEMPOTENCY_TTL_S, "24 h: how long a client may repeat a request"),
        "idempotency_lease_s": (IDEMPOTENCY_LEASE_S, "a dead owner's claim is free after this; a live one renews it"),
        "idempotency_wait_s": (IDEMPOTENCY_WAIT_S, "how long a duplicate waits for the answer, holding no connection"),
        "idempotency_waiters": (4, "duplicates that may wait per key; more get 409 at once"),
        "identity_ttl_s": (300, "actor, organisation and role are looked up every 5 minutes, or after a change"),
        "loop_sample_s": (0.05, "20 heartbeats a second measure the loop's lag for 0.03 % of the core"),
        "memory_sample_s": (0.5, "reading the process's memory costs 22 us"),
    }


def _in_words(value: Any, unit: str) -> str:
    if unit == "bytes":
        return format_bytes(value)
    return f"{value:g} {unit}" if isinstance(value, float) else f"{value} {unit}"
