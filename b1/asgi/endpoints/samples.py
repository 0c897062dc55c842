"""What every service's snapshot says, in the catalogue's terms; read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Iterator

from b1.admission import AdmissionSnapshot, Rung
from b1.asgi.endpoints.cache_samples import cache_samples
from b1.asgi.endpoints.health import State
from b1.metrics import names
from b1.metrics.registry import Sample
from b1.store.presence import FallbackSnapshot
from b1.watchdog import WatchdogSnapshot

IDEMPOTENCY_EVENTS = (
    "requests", "replays", "conflicts", "mismatches", "takeovers", "lost_claims", "not_storable", "not_compared",
    "records", "errors",
)  # fmt: skip
RUNGS = tuple(rung.name.lower() for rung in Rung)


def samples(state: State) -> Iterator[Sample]:
    """Yield one sample per number."""
    yield from _memory(state)
    yield from _database(state)
    yield from _store(state)
    yield from cache_samples(state)
    yield from _idempotency(state)
    yield from _limiter(state)
    yield from _alerts(state)
    yield from _server(state)


def _server(state: State) -> Iterator[Sample]:
    for reason, count in state.refusals.items():
        yield names.PROTOCOL_REFUSALS, (reason,), float(count)
    workers = state.workers
    if workers is None:
        return
    for cause, count in workers.endings.items():
        yield names.WORKER_ENDINGS, (cause,), float(count)
    for (kind, reason), count in workers.replacements.items():
        yield names.WORKER_REPLACEMENTS, (kind, reason), float(count)
    if workers.last is not None and workers.last.pause_s is not None:
        yield names.WORKER_PAUSE, (workers.last.kind,), workers.last.pause_s
    yield names.REPLACEMENTS_TRIPPED, (), float(workers.is_tripped)


def _alerts(state: State) -> Iterator[Sample]:
    alerts = state.alerts
    yield names.ALERTS_FIRING, (), float(len(alerts.firing))
    if not alerts.has_receiver:
        return
    yield names.ALERTS_WAITING, (), float(alerts.waiting)
    yield names.ALERT_ATTEMPTS, ("delivered",), float(alerts.delivered)
    yield names.ALERT_ATTEMPTS, ("failed",), float(alerts.failed)
    yield names.ALERTS_DROPPED, (), float(alerts.dropped)


def _memory(state: State) -> Iterator[Sample]:
    yield names.MEMORY_LIMIT, (), float(state.memory.limit_bytes)
    yield names.MEMORY_USED, (), float(state.memory.used_bytes)
    yield names.MEMORY_LEVEL, (), float(state.memory.level_number)
    yield names.MEMORY_IRRECLAIMABLE, (), float(state.memory.is_irreclaimable)
    yield names.MEMORY_SWAPPED, (), float(state.memory.swapped_bytes)
    yield names.MEMORY_BALLAST, (), float(state.memory.ballast_bytes)
    yield names.MEMORY_SLOPE, (), state.memory.slope_bytes_per_s
    if state.memory.time_to_limit_s is not None:
        yield names.MEMORY_TIME_LEFT, (), state.memory.time_to_limit_s
    for kind, per_cent in (("some", state.memory.stall_some), ("full", state.memory.stall_full)):
        if per_cent is not None:
            yield names.MEMORY_STALL, (kind,), per_cent / 100
    for step, returned_bytes in state.memory.returned_by_step:
        yield names.MEMORY_RECLAIMED, (step,), float(returned_bytes)
    yield from _loop(state.loop)
    yield from _admission(state.admission)


def _database(state: State) -> Iterator[Sample]:
    database = state.database
    yield names.DB_LIMIT, (), float(state.db_limit)
    if database is None:
        return
    yield names.DB_UP, (), float(database.away_since is None)
    yield names.DB_ACTIVE, (), float(database.in_use)
    yield names.DB_IDLE, (), float(database.idle)
    yield names.DB_WAITING, (), float(database.waiting)
    load = database.load
    yield names.DB_UTILISATION, (), load.utilisation
    for quantile, wait_s in (("0.5", load.wait_p50_s), ("0.95", load.wait_p95_s), ("0.99", load.wait_p99_s)):
        yield names.DB_WAIT, (quantile,), wait_s
    yield names.DB_SATURATED, (), float(load.is_saturated)
    yield names.DB_SLOW, (), float(database.slow_queries)
    for event in ("acquired", "waited", "refused", "hopeless", "timeouts", "cancels", "opened", "yielded", "lost"):
        yield names.DB_EVENTS, (event,), float(getattr(database.counters, event))


def _store(state: State) -> Iterator[Sample]:
    store = state.store
    for mode in ("memory", "redis", "local"):
        yield names.LIMIT_MODE, (mode,), float(store.mode == mode)
    yield names.STORE_KEYS, (), float(store.keys)
    yield names.STORE_BYTES, (), float(store.held_bytes)
    if state.is_redis_configured:
        yield names.STORE_UP, (), float(store.connected)
        yield names.STORE_ROUND_TRIPS, (), float(store.round_trips)
        yield names.STORE_ERRORS, (), float(store.errors)
    if isinstance(store, FallbackSnapshot):
        yield names.LIMITS_AHEAD, (), float(store.ahead)
        yield names.LIMITS_REGRETTED, (), float(store.regretted)


def _idempotency(state: State) -> Iterator[Sample]:
    idempotency = state.idempotency
    if idempotency is None:
        return
    yield names.IDEMPOTENCY_IN_FLIGHT, (), float(idempotency.in_flight)
    yield names.IDEMPOTENCY_SPOOLED, (), float(idempotency.spooled_bytes)
    yield names.IDEMPOTENCY_RECORD_BYTES, (), float(idempotency.record_bytes)
    for event in IDEMPOTENCY_EVENTS:
        yield names.IDEMPOTENCY_EVENTS, (event,), float(getattr(idempotency, event))


def _loop(loop: WatchdogSnapshot) -> Iterator[Sample]:
    yield names.LOOP_LAG, ("0.5",), loop.lag.p50_s
    yield names.LOOP_LAG, ("0.99",), loop.lag.p99_s
    yield names.LOOP_LAG, ("1",), loop.lag.max_s
    yield names.LOOP_UTILISATION, (), loop.utilisation
    yield names.LOOP_LAGGING, (), float(loop.is_lagging)
    for cause, stalls, stalled_s in loop.stalls:
        yield names.LOOP_STALLS, (cause,), stalls
        yield names.LOOP_STALLED, (cause,), stalled_s


def _admission(admission: AdmissionSnapshot | None) -> Iterator[Sample]:
    if admission is None:
        return
    yield names.ADMISSION_RUNG, (), float(RUNGS.index(admission.rung))
    yield names.ADMISSION_SOCKETS, (), float(admission.sockets)
    for lane in admission.lanes:
        yield names.ADMISSION_RUNNING, (lane.name,), float(lane.running)
        yield names.ADMISSION_QUEUED, (lane.name,), float(lane.queued)
        yield names.ADMISSION_LIMIT, (lane.name,), float(lane.limit)
    for name, count in admission.admitted:
        yield names.ADMISSION_ADMITTED, (name,), float(count)
    for name, reason, count in admission.refused:
        yield names.ADMISSION_REFUSED, (name, reason), float(count)


def _limiter(state: State) -> Iterator[Sample]:
    limiter = state.limiter
    if limiter is None:
        return
    yield names.LIMITER_PENALTIES, (), float(limiter.penalties)
    yield names.LIMITER_DENIED, (), float(limiter.denied)
    yield names.LIMITER_DENIED_CALLERS, (), float(limiter.denied_callers)
    for policy, count in limiter.shadowed_by.items():
        yield names.LIMITER_SHADOW, (policy,), float(count)
    instances = getattr(state.store, "instances", None)  # of a store that has a Redis
    if instances is not None:
        yield names.LIMITER_INSTANCES, (), float(instances)
