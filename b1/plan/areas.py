"""The numbers of each area with their reasons, from the box and the wishes."""

from __future__ import annotations

from collections.abc import Mapping
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

# A successor speaks for a worker that drains only once that one must be gone.
ALERT_OVERLAP_MARGIN_S = 15

# The largest body where nobody says otherwise, and how many bodies may be on their way at once.
BODY_BYTES = 32 * MIB
READING = 200

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


def memory_wish(settings: Settings) -> tuple[int, str]:
    """Return the memory that is planned for at most, in bytes, and whose wish that is; the box may have less."""
    if settings.memory_limit is not None:
        return settings.memory_limit, "B1_MEMORY_LIMIT"
    return B1_MEMORY_BYTES, "a B1's memory"


def state_dir(settings: Settings, temporary: Path) -> Path:
    """Return where reports and small state go; never below App Service's /home, which is a slow network share."""
    return settings.state_dir or temporary / f"b1-{settings.namespace or 'default'}"


def _memory_limit(host: Host, settings: Settings) -> tuple[int, str]:
    limit, source = host.memory.limit_bytes, f"the least limit above this process ({host.memory.source})"
    wish, whose = memory_wish(settings)
    if wish <= limit:
        return wish, f"{whose}; this box has {format_bytes(limit)} ({host.memory.source})"
    return limit, source


def memory(host: Host, settings: Settings) -> dict[str, tuple[Any, str]]:
    limit, source = _memory_limit(host, settings)
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


def requests(settings: Settings) -> dict[str, tuple[Any, str]]:
    return {
        "body_limit_bytes": (
            settings.body_limit or BODY_BYTES,
            "B1_BODY_LIMIT" if settings.body_limit else "32 MiB, counted while it streams, with or without a length",
        ),
        "header_limit_bytes": (
            64 * KIB,
            "request line and headers, counted while they arrive; the server has no bound of its own",
        ),
        "header_limit_fields": (100, "more fields than any browser or proxy sends"),
        "header_timeout_s": (10.0, "a header block that takes longer is a slow attack or a dead phone"),
        "transfer_least_bytes_per_s": (
            500.0,
            "a body or an answer that moves more slowly holds a place for nothing: a tenth of the slowest mobile link",
        ),
        "transfer_grace_s": (
            10.0,
            "how long a body may stand still, or an answer be left unread; as long as a head may",
        ),
        "request_deadline_s": (30.0, "far below the 230 s at which the front end gives up while the work would go on"),
        "concurrent_requests": (200, "requests in work at once; more would only wait for the one core"),
        "admission_initial": (64, "waiting requests at first; grows and shrinks with what their latency says"),
        "admission_reading": (READING, "bodies on their way at once; they hold no permit, but each holds memory"),
        "admission_queue": (256, "requests of one kind that may wait, as many as the kernel's backlog"),
        "admission_standing_s": (0.1, "a queue that was empty more recently is a burst and no overload"),
        "admission_alarm_s": (0.25, "until somebody has waited longer the queue is served in order and refuses nobody"),
        "admission_alarm_requests": (
            40,
            "fewer that wait are clients that ask again at once, unless somebody has waited for half of the patience",
        ),
        "admission_target_s": (0.1, "older requests are refused under overload, so that the others are in time"),
        "admission_patience_s": (1.0, "older requests are refused otherwise: most clients have a second in mind"),
        "admission_opening_s": (2.0, "what waited while a worker was replaced is served, and counts as no overload"),
        "admission_sockets": (
            350,
            "WebSockets open at once: what the front end of a B1 lets through; each holds memory",
        ),
    }


def server(host: Host) -> dict[str, tuple[Any, str]]:
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
        "threads": (8, "`def` routes in work at once: those that wait need a few, those that compute share one core"),
        "threads_reserved": (4, "for password hashing, file work and DNS beside them; each arena costs memory"),
    }


def _graceful_stop(host: Host) -> tuple[int, str]:
    if host.stop_limit_s is None:
        return GRACEFUL_STOP_S, "nobody is known to kill us earlier; longer than any request but a stuck one"
    seconds = max(1, min(GRACEFUL_STOP_S, int(host.stop_limit_s) - 1))
    return seconds, f"a second less than the {host.stop_limit_s:g} s after which the platform kills"


def database(settings: Settings) -> dict[str, tuple[Any, str]]:
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
        "db_silence_s": (
            5.0,
            "a question that is unanswered for longer is asked again, in words that any server answers",
        ),
        "db_slow_query_s": (0.5, "longer statements are logged without their values: a page has a few tens of them"),
    }


def state(host: Host, settings: Settings) -> dict[str, tuple[Any, str]]:
    limit, _ = _memory_limit(host, settings)
    return {
        "redis_connections": (settings.redis_connections, "per host: one for all work, one kept for emergencies"),
        "redis_deadline_s": (0.25, "a store that takes longer is away; local state decides"),
        "redis_pending": (1024, "calls in flight on the one connection; more are answered from local state"),
        "idempotency_ttl_s": (IDEMPOTENCY_TTL_S, "24 h: how long a client may repeat a request"),
        "idempotency_lease_s": (IDEMPOTENCY_LEASE_S, "a dead owner's claim is free after this; a live one renews it"),
        "idempotency_wait_s": (IDEMPOTENCY_WAIT_S, "how long a duplicate waits for the answer, holding no connection"),
        "idempotency_waiters": (4, "duplicates that may wait per key; more get 409 at once"),
        "idempotency_running": (
            512,
            "attempts at once: all that are admitted, and as many again whose clients have left",
        ),
        "idempotency_spool_memory_bytes": (
            max(64 * KIB, min(256 * KIB, limit // 32 // READING // (64 * KIB) * (64 * KIB))),
            "what one body with a key holds in memory: 1/32 of the limit for all at once; the rest is on disk",
        ),
        "idempotency_spool_disk_bytes": (
            8 * (settings.body_limit or BODY_BYTES),
            "eight of the largest bodies at once; a B1 has 10 GB of local disk, so 3 % of it",
        ),
        "identity_ttl_s": (300, "actor, organisation and role are looked up every 5 minutes, or after a change"),
        "cache_tenant_share": (
            0.25,
            "a tenant that holds more loses its second chances: a flood drives out its own entries",
        ),
        "cache_away_s": (
            30.0,
            "while Redis is away copies count as fresh for so long: nobody hears of what other processes invalidate",
        ),
        "cache_heartbeat_s": (
            15.0,
            "how often the server is asked whether a push is missing: a lost one is found then",
        ),
        "warming_start_s": (
            2.0,
            "readiness waits so long for what is critical: less than a platform's patience with a start",
        ),
        "warming_at_start": (2, "of three connections one stays free for whoever else starts"),
        "warming_share": (
            0.1,
            "warm-ups, one at a time, have a tenth of the time: mostly waiting, so less of the core",
        ),
        "warming_load_s": (10.0, "one warm-up is given up then: its first reader would not have waited longer"),
        "warming_held_s": (300.0, "what pressure held back for so long is left to its first reader"),
        "warming_queue": (256, "at a tenth of the time that is some minutes of work; more would come too late"),
        "warming_tracked": (512, "readings that are counted, about 0.5 MB: five times what is warmed again"),
        "warming_top": (
            100,
            "what is warmed again after a restart: the head of a skewed distribution has most of its reads",
        ),
        "warming_users": (1024, "users remembered as warmed, at most 1 MB; whoever is forgotten is warmed once more"),
        "loop_sample_s": (0.05, "20 heartbeats a second measure the loop's lag for 0.13 % of the core"),
        "loop_stall_s": (0.1, "half of what a person notices; below it the noise of scheduling dominates"),
        "loop_lagging_s": (
            0.25,
            "p99 of the lag above which less is admitted: one stall of half a second in ten is enough",
        ),
        "loop_dump_s": (0.4, "no Python thread waits that long for the interpreter unless one call holds it"),
        "loop_reports": (20, "distinct lines that blocked the loop are remembered; a service has few"),
        "loop_reports_per_minute": (6, "a broken release must not flood the log"),
        "memory_sample_s": (0.5, "reading the process's memory costs 22 us"),
        "memory_pressed_s": (
            0.1,
            "from the elevated level on a leak of 100 MB/s must not pass a level between two looks",
        ),
    }


def governor(host: Host, settings: Settings) -> dict[str, tuple[Any, str]]:
    limit, _ = _memory_limit(host, settings)
    return {
        "memory_reserve_bytes": (
            min(96 * MIB, host.total_bytes // 16),
            "kept free on the host, at most a sixteenth of it: below that the kernel stalls whoever allocates",
        ),
        "memory_ballast_bytes": (
            min(8 * MIB, limit // 64),
            "held only to be given up at 95 %, where the last steps need memory of their own",
        ),
        "memory_collection_s": (0.1, "a full collection is done while its predicted pause is shorter: nobody feels it"),
        "memory_report_apart_s": (
            300.0,
            "one report of what holds the memory per crisis; each costs about 0.1 s of CPU",
        ),
        "handover_limit_bytes": (
            min(8 * MIB, limit // 64),
            "state passed to a successor: both copies exist at once, while memory may be what is short",
        ),
    }


def alerts(host: Host) -> dict[str, tuple[Any, str]]:
    stop_s, _ = _graceful_stop(host)
    return {
        "alert_cooldown_s": (300.0, "the same alert is told at most every 5 minutes: a level may flap, a person not"),
        "alert_settle_s": (5.0, "a new worker knows its own level by then, and ends what only its predecessor saw"),
        "alert_overlap_s": (
            float(stop_s + ALERT_OVERLAP_MARGIN_S),
            f"a successor keeps silent until its predecessor must be gone: {stop_s} s to stop and a margin",
        ),
        "alert_queue": (64, "undelivered messages; at most 40 KiB each, and later ones make earlier ones obsolete"),
        "alert_keep_s": (86_400.0, "older news is of no use to anybody"),
        "alert_attempt_s": (10.0, "a receiver that has not answered by then is tried again, with the same id"),
        "alert_backoff_first_s": (1.0, "pause after the first failure; doubles, half of it at random"),
        "alert_backoff_most_s": (300.0, "longest pause of ours: a receiver that is back is found within 5 minutes"),
        "alert_retry_after_most_s": (3600.0, "longest pause that a receiver may ask for; more would lose a day's news"),
        "alert_flush_s": (1.5, "what a stop gives to delivery; the successor sends the rest"),
        "alert_handler_s": (10.0, "longest run of an application's handler, so that a stuck one ends"),
    }
