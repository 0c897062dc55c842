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

DB_LIMIT = Metric("b1_database_connections_limit", "gauge", "Connections this host may hold.")
DB_ACTIVE = Metric("database_connections_active", "gauge", "Connections in use.")
DB_IDLE = Metric("database_connections_idle", "gauge", "Connections open and free.")
DB_WAITING = Metric("b1_database_waiting", "gauge", "Callers that wait for a connection.")
DB_UP = Metric("b1_database_up", "gauge", "1 while Postgres answers.")
DB_EVENTS = Metric("b1_database_events_total", "counter", "What happened in the pool.", ("event",))

STORE_UP = Metric("b1_redis_up", "gauge", "1 while Redis answers; absent when it is not configured.")
STORE_KEYS = Metric("b1_store_keys", "gauge", "Keys in the local store.")
STORE_BYTES = Metric("b1_store_bytes", "gauge", "Accounted bytes of the local store.")
STORE_ROUND_TRIPS = Metric("b1_redis_round_trips_total", "counter", "Round trips to Redis.")
STORE_ERRORS = Metric("b1_redis_errors_total", "counter", "Calls that Redis did not answer in time or in order.")

LIMIT_EXCEEDED = Metric("rate_limit_exceeded_total", "counter", "Requests refused by a policy.", ("policy",))
LIMIT_MODE = Metric("b1_limiter_mode", "gauge", "1 for the mode in force.", ("mode",))

IDEMPOTENCY_EVENTS = Metric("b1_idempotency_events_total", "counter", "What became of keyed requests.", ("event",))
IDEMPOTENCY_IN_FLIGHT = Metric("b1_idempotency_in_flight", "gauge", "Keyed requests that run now.")

CACHE_HITS = Metric("cache_hits_total", "counter", "Reads answered from the cache.", ("cache",))
CACHE_MISSES = Metric("cache_misses_total", "counter", "Reads that had to load.", ("cache",))
CACHE_EVICTIONS = Metric("b1_cache_evictions_total", "counter", "Entries dropped, by cause.", ("cause",))
CACHE_BYTES = Metric("b1_cache_bytes", "gauge", "Accounted bytes of the in-process cache.")
CACHE_ENTRIES = Metric("b1_cache_entries", "gauge", "Entries of the in-process cache.")

MEMORY_LIMIT = Metric("b1_memory_limit_bytes", "gauge", "The effective memory limit.")
MEMORY_USED = Metric("b1_memory_used_bytes", "gauge", "Memory that counts against the limit.")
MEMORY_LEVEL = Metric("b1_memory_level", "gauge", "0 normal, 1 elevated, 2 high, 3 severe, 4 critical, 5 emergency.")

MEMORY_RECLAIMED = Metric(
    "b1_memory_reclaimed_bytes_total", "counter", "Memory that a step of the ladder measurably gave back.", ("step",)
)
MEMORY_IRRECLAIMABLE = Metric("b1_memory_irreclaimable", "gauge", "1 while reclaiming no longer helps.")

LOOP_LAG = Metric("b1_event_loop_lag_seconds", "gauge", "Lag of the event loop over ten seconds.", ("quantile",))

ALERTS_FIRING = Metric("b1_alerts_firing", "gauge", "Alerts that fire now.")
ALERTS_WAITING = Metric("b1_alerts_waiting", "gauge", "Messages for the webhook that are not delivered yet.")
ALERT_ATTEMPTS = Metric("b1_alert_attempts_total", "counter", "Attempts to deliver an alert.", ("outcome",))
ALERTS_DROPPED = Metric("b1_alerts_dropped_total", "counter", "Messages given up: too old, or the queue was full.")

UNHANDLED = Metric("b1_unhandled_errors_total", "counter", "Exceptions that no handler caught.")

CATALOGUE: tuple[Metric, ...] = tuple(value for value in globals().values() if isinstance(value, Metric))
