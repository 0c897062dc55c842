"""The catalogue: every metric's name, kind, help and labels.

Conventional names for HTTP, database and cache; `b1_*` for what is the profile's own. Base units only (seconds, bytes);
every label has a bounded set of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the catalogue."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


HTTP_REQUESTS = Metric("http_requests_total", "counter", "Requests answered.", ("method", "route", "status"))
HTTP_DURATION = Metric("http_request_duration_seconds", "histogram", "Time until the answer left.", ("method", "route"))
HTTP_IN_FLIGHT = Metric("http_requests_in_flight", "gauge", "Requests in work.")
SHORT_WAY_FAILURES = Metric(
    "b1_short_way_failures_total", "counter", "Stored answers that the layers had to give because something was raised."
)

DB_LIMIT = Metric("b1_database_connections_limit", "gauge", "Connections this host may hold.")
DB_ACTIVE = Metric("database_connections_active", "gauge", "Connections in use.")
DB_IDLE = Metric("database_connections_idle", "gauge", "Connections open and free.")
DB_WAITING = Metric("b1_database_waiting", "gauge", "Callers that wait for a connection.")
DB_UTILISATION = Metric(
    "b1_database_utilisation_ratio",
    "gauge",
    "Share of the host's connections x time that this process used, over ten seconds.",
)
DB_WAIT = Metric("b1_database_wait_seconds", "gauge", "Wait for a connection over the last seconds.", ("quantile",))
DB_SATURATED = Metric("b1_database_saturated", "gauge", "1 while waiting costs more than the work itself.")
DB_SLOW = Metric("b1_database_slow_queries_total", "counter", "Statements that took longer than the plan's bound.")
DB_UP = Metric("b1_database_up", "gauge", "1 while Postgres answers.")
DB_EVENTS = Metric("b1_database_events_total", "counter", "What happened in the pool.", ("event",))

STORE_UP = Metric("b1_redis_up", "gauge", "1 while Redis answers; absent when it is not configured.")
STORE_KEYS = Metric("b1_store_keys", "gauge", "Keys in the local store.")
STORE_BYTES = Metric("b1_store_bytes", "gauge", "Accounted bytes of the local store.")
LIMITS_AHEAD = Metric("b1_limits_ahead_total", "counter", "Decisions that were made before Redis confirmed them.")
LIMITS_REGRETTED = Metric("b1_limits_regretted_total", "counter", "Of those, the ones that Redis would have refused.")
STORE_ROUND_TRIPS = Metric("b1_redis_round_trips_total", "counter", "Round trips to Redis.")
STORE_ERRORS = Metric("b1_redis_errors_total", "counter", "Calls that Redis did not answer in time or in order.")

LIMIT_EXCEEDED = Metric("rate_limit_exceeded_total", "counter", "Requests refused by a policy.", ("policy",))
LIMIT_MODE = Metric("b1_limiter_mode", "gauge", "1 for the mode in force.", ("mode",))

IDEMPOTENCY_EVENTS = Metric("b1_idempotency_events_total", "counter", "What became of keyed requests.", ("event",))
IDEMPOTENCY_SPOOLED = Metric("b1_idempotency_spooled_bytes", "gauge", "Keyed request bodies on local disk.")
IDEMPOTENCY_RECORD_BYTES = Metric("b1_idempotency_record_bytes_total", "counter", "Bytes of answers stored for replay.")
LIMITER_PENALTIES = Metric("b1_limiter_penalties_total", "counter", "Callers shut out for repeated offences.")
LIMITER_DENIED = Metric("b1_limiter_denied_total", "counter", "Requests refused without asking the store.")
LIMITER_DENIED_CALLERS = Metric(
    "b1_limiter_denied_callers", "gauge", "Callers who are shut out, as far as this process knows."
)
LIMITER_SHADOW = Metric(
    "b1_limiter_shadow_refusals_total", "counter", "What policies in shadow mode would have refused.", ("policy",)
)
LIMITER_INSTANCES = Metric("b1_limiter_instances", "gauge", "Processes that share this Redis, as last counted.")
IDEMPOTENCY_IN_FLIGHT = Metric("b1_idempotency_in_flight", "gauge", "Keyed requests that run now.")

CACHE_HITS = Metric("cache_hits_total", "counter", "Reads answered from the cache.", ("cache",))
CACHE_MISSES = Metric("cache_misses_total", "counter", "Reads that had to load.", ("cache",))
CACHE_EVICTIONS = Metric("b1_cache_evictions_total", "counter", "Entries dropped, by cause.", ("cause",))
CACHE_BYTES = Metric("b1_cache_bytes", "gauge", "Accounted bytes of the in-process cache.")
CACHE_CEILING = Metric("b1_cache_ceiling_bytes", "gauge", "The most that the cache holds at the present memory level.")
CACHE_ENTRIES = Metric("b1_cache_entries", "gauge", "Entries of the in-process cache.")
CACHE_PACKED = Metric("b1_cache_packed_entries", "gauge", "Values that lie packed in the in-process cache.", ("cache",))
CACHE_PACKED_SAVED = Metric("b1_cache_packed_saved_bytes", "gauge", "What they would take more unpacked.", ("cache",))
CACHE_READY = Metric("b1_cache_ready_bytes", "gauge", "Ready forms of much read packed values.", ("cache",))
CACHE_UNPACKED = Metric("b1_cache_unpacked_total", "counter", "Hits for which a value was unpacked.", ("cache",))
CACHE_SEGMENTS = Metric("b1_cache_segments_bytes", "gauge", "Touched pages of the in-process cache's segments.")
CACHE_RETURNED = Metric("b1_cache_returned_bytes_total", "counter", "Pages that eviction gave back to the system.")
CACHE_SHARED_HITS = Metric("b1_cache_shared_hits_total", "counter", "Hits whose copy came from Redis.", ("cache",))
CACHE_LOADS = Metric("b1_cache_loads_total", "counter", "Loads of the data cache.")
CACHE_LOADS_RUNNING = Metric("b1_cache_loads_running", "gauge", "Loads that run or wait for their turn.")
CACHE_JOINED = Metric("b1_cache_joined_total", "counter", "Reads that waited for the load of another.", ("cache",))
CACHE_REFRESHES = Metric("b1_cache_refreshes_total", "counter", "Loads that nobody waited for.", ("cache",))
CACHE_STALE = Metric("b1_cache_stale_total", "counter", "Answers with a stale copy, by reason.", ("cache", "reason"))
CACHE_REFUSED = Metric(
    "b1_cache_refused_total", "counter", "What was answered and not kept, by reason.", ("cache", "reason")
)
CACHE_ERRORS = Metric("b1_cache_errors_total", "counter", "What failed in the data cache, by cause.", ("cause",))
CACHE_NAMESPACE_HITS = Metric(
    "b1_cache_namespace_hits_total", "counter", "Hits of the data cache, by the key's first part.", ("namespace",)
)
CACHE_NAMESPACE_MISSES = Metric(
    "b1_cache_namespace_misses_total", "counter", "Misses of the data cache, by the key's first part.", ("namespace",)
)
CACHE_INVALIDATIONS_PENDING = Metric("b1_cache_invalidations_pending", "gauge", "Names that are on their way to Redis.")
CACHE_WARMED = Metric("b1_cache_warmed_total", "counter", "Warm-ups that ended well.", ("kind",))
CACHE_WARMING_FAILED = Metric("b1_cache_warming_failed_total", "counter", "Warm-ups that raised or took too long.")
CACHE_WARMING_SKIPPED = Metric(
    "b1_cache_warming_skipped_total", "counter", "Warm-ups that were left out, by reason.", ("reason",)
)
CACHE_WARMING_HELD = Metric("b1_cache_warming_held_total", "counter", "Times that warming had to wait.", ("reason",))
CACHE_WARMING_SECONDS = Metric("b1_cache_warming_seconds_total", "counter", "What warm-ups took.", ("kind",))
CACHE_WARMING_QUEUED = Metric("b1_cache_warming_queued", "gauge", "Warm-ups that wait.")
CACHE_WARMED_ENTRIES = Metric(
    "b1_cache_warmed_entries_total", "counter", "Warmed entries: used, wasted, or not measured.", ("outcome",)
)
CACHE_WARMING_SAVED = Metric(
    "b1_cache_warming_saved_seconds_total", "counter", "Loading time of warmed entries that were used."
)
CACHE_INTENTS = Metric("b1_cache_intents_total", "counter", "Invalidations tied to writes.", ("event",))
CACHE_INTENTS_UNFINISHED = Metric("b1_cache_intents_unfinished", "gauge", "Invalidations of writes under way.")
CACHE_INTENTS_UNDELETED = Metric("b1_cache_intents_undeleted", "gauge", "Rows that were applied and not deleted yet.")
CACHE_TABLE_EXACT = Metric(
    "b1_cache_table_exact", "gauge", "1 while copies are validated without a trip; absent without Redis."
)
CACHE_TABLE_RESYNCS = Metric("b1_cache_table_resyncs_total", "counter", "Times that the table of versions was read.")
CACHE_TABLE_LOSSES = Metric(
    "b1_cache_table_losses_total", "counter", "Times that its order was lost on a living connection."
)
CACHE_DRIFT = Metric(
    "b1_cache_drift", "gauge", "What the last coherency check found; absent before the first.", ("kind",)
)
EXTERNAL_REQUESTS = Metric(
    "external_api_requests_total", "counter", "Calls to services outside, such as the CDN.", ("service", "outcome")
)
PURGE_WAITING = Metric("b1_purge_waiting", "gauge", "Surrogate keys that the CDN was not told yet.")
PURGE_OLDEST = Metric("b1_purge_oldest_seconds", "gauge", "Age of what waits longest.")
PURGE_KEYS = Metric("b1_purge_keys_total", "counter", "Surrogate keys that are done with.", ("outcome",))

MEMORY_LIMIT = Metric("b1_memory_limit_bytes", "gauge", "The effective memory limit.")
MEMORY_USED = Metric("b1_memory_used_bytes", "gauge", "Memory that counts against the limit.")
MEMORY_LEVEL = Metric("b1_memory_level", "gauge", "0 normal, 1 elevated, 2 high, 3 severe, 4 critical, 5 emergency.")

MEMORY_RECLAIMED = Metric(
    "b1_memory_reclaimed_bytes_total", "counter", "Memory that a step of the ladder measurably gave back.", ("step",)
)
MEMORY_SWAPPED = Metric("b1_memory_swapped_bytes", "gauge", "What of the used memory lies in swap.")
MEMORY_BALLAST = Metric("b1_memory_ballast_bytes", "gauge", "Memory kept for the emergency level.")
MEMORY_SLOPE = Metric("b1_memory_slope_bytes_per_second", "gauge", "How fast memory grows, over ten seconds.")
MEMORY_TIME_LEFT = Metric(
    "b1_memory_time_to_limit_seconds",
    "gauge",
    "When the limit is reached at this pace; absent while memory does not grow.",
)
MEMORY_STALL = Metric(
    "b1_memory_stall_ratio",
    "gauge",
    "Share of ten seconds that tasks waited for memory; absent without PSI.",
    ("kind",),
)
MEMORY_IRRECLAIMABLE = Metric("b1_memory_irreclaimable", "gauge", "1 while reclaiming no longer helps.")

ADMISSION_RUNG = Metric("b1_admission_rung", "gauge", "How far admission is restricted: 0 is open, 4 the last.")
ADMISSION_RUNNING = Metric("b1_admission_running", "gauge", "Requests in work.", ("lane",))
ADMISSION_QUEUED = Metric("b1_admission_queued", "gauge", "Requests that wait for their turn.", ("lane",))
ADMISSION_LIMIT = Metric("b1_admission_limit", "gauge", "Requests that may be in work at once.", ("lane",))
ADMISSION_SOCKETS = Metric("b1_admission_sockets", "gauge", "WebSockets that are open.")
ADMISSION_ADMITTED = Metric("b1_admission_admitted_total", "counter", "Requests admitted.", ("class",))
ADMISSION_REFUSED = Metric("b1_admission_refused_total", "counter", "Requests refused with 503.", ("class", "reason"))
LOOP_UTILISATION = Metric(
    "b1_event_loop_utilisation_ratio", "gauge", "Share of the last ten seconds in which the loop's thread computed."
)
LOOP_LAGGING = Metric("b1_event_loop_lagging", "gauge", "1 while the loop's lag raises admission by a level.")
LOOP_STALLS = Metric("b1_event_loop_stalls_total", "counter", "Times the event loop was blocked.", ("cause",))
LOOP_STALLED = Metric(
    "b1_event_loop_stalled_seconds_total", "counter", "Time in which the event loop was blocked.", ("cause",)
)
LOOP_LAG = Metric("b1_event_loop_lag_seconds", "gauge", "Lag of the event loop over ten seconds.", ("quantile",))

ALERTS_FIRING = Metric("b1_alerts_firing", "gauge", "Alerts that fire now.")
ALERTS_WAITING = Metric("b1_alerts_waiting", "gauge", "Messages for the webhook that are not delivered yet.")
ALERT_ATTEMPTS = Metric("b1_alert_attempts_total", "counter", "Attempts to deliver an alert.", ("outcome",))
ALERTS_DROPPED = Metric("b1_alerts_dropped_total", "counter", "Messages given up: too old, or the queue was full.")

PROTOCOL_REFUSALS = Metric(
    "b1_protocol_refusals_total", "counter", "Requests refused before they were requests, by code.", ("reason",)
)
WORKER_ENDINGS = Metric("b1_worker_endings_total", "counter", "Workers of this master that ended.", ("cause",))
WORKER_REPLACEMENTS = Metric(
    "b1_worker_replacements_total", "counter", "Workers replaced, by form and reason.", ("kind", "reason")
)
WORKER_PAUSE = Metric(
    "b1_worker_replacement_pause_seconds", "gauge", "How long nobody accepted in the last replacement.", ("kind",)
)
REPLACEMENTS_TRIPPED = Metric("b1_worker_replacements_tripped", "gauge", "1 while the breaker allows no replacement.")

UNHANDLED = Metric("b1_unhandled_errors_total", "counter", "Exceptions that no handler caught.")

CATALOGUE: tuple[Metric, ...] = tuple(value for value in globals().values() if isinstance(value, Metric))
