"""The caches' part of the metrics: what their snapshots say, in the catalogue's terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from b1.asgi.endpoints.cache_stats import Caches
from b1.cache import CacheSnapshot, WarmingSnapshot
from b1.cache.packing.holding import HoldSnapshot
from b1.metrics import names
from b1.metrics.registry import Sample
from b1.purge import PurgeSnapshot

if TYPE_CHECKING:
    from b1.asgi.endpoints.health import State

INTENT_EVENTS = ("recorded", "applied", "replayed", "failed", "errors")
DRIFT_KINDS = ("missed", "l1_l2_differs", "stale")


def cache_samples(state: State) -> Iterator[Sample]:
    """Yield what the caches count."""
    cache = state.cache
    yield names.CACHE_BYTES, (), float(cache.held_bytes)
    yield names.CACHE_CEILING, (), float(cache.ceiling_bytes)
    yield names.CACHE_ENTRIES, (), float(cache.entries)
    for cause, count in cache.evictions.items():
        yield names.CACHE_EVICTIONS, (cause,), float(count)
    for layer, hits, misses in state.cache_layers:
        yield names.CACHE_HITS, (layer,), float(hits)
        yield names.CACHE_MISSES, (layer,), float(misses)
    yield from _data(cache)
    if state.caches is not None:
        caches = state.caches
        yield from _responses(caches)
        yield from _map(caches)
        yield from _invalidation(caches)
        if caches.warming is not None and caches.warming.state != "off":
            yield from _warming(caches.warming)
        if caches.purge is not None:
            yield from _purge(caches.purge)


def _held(name: str, held: HoldSnapshot) -> Iterator[Sample]:
    yield names.CACHE_PACKED, (name,), float(held.packed_entries)
    yield names.CACHE_PACKED_SAVED, (name,), float(held.saved_bytes)
    yield names.CACHE_READY, (name,), float(held.ready_bytes)
    yield names.CACHE_UNPACKED, (name,), float(held.unpacked)


def _data(cache: CacheSnapshot) -> Iterator[Sample]:
    yield from _held("data", cache.held)
    yield names.CACHE_SHARED_HITS, ("data",), float(cache.l2_hits)
    yield names.CACHE_LOADS, (), float(cache.loads)
    yield names.CACHE_LOADS_RUNNING, (), float(cache.loads_running)
    yield names.CACHE_JOINED, ("data",), float(cache.joined)
    yield names.CACHE_REFRESHES, ("data",), float(cache.refreshes)
    for reason, count in cache.stale.items():
        yield names.CACHE_STALE, ("data", reason), float(count)
    for reason, count in cache.refused.items():
        yield names.CACHE_REFUSED, ("data", reason), float(count)
    for cause, count in cache.errors.items():
        yield names.CACHE_ERRORS, (cause,), float(count)
    for namespace, counted in cache.namespaces.items():
        yield names.CACHE_NAMESPACE_HITS, (namespace,), float(counted.hits)
        yield names.CACHE_NAMESPACE_MISSES, (namespace,), float(counted.misses)
    yield names.CACHE_INVALIDATIONS_PENDING, (), float(cache.invalidations_pending)


def _responses(caches: Caches) -> Iterator[Sample]:
    responses = caches.responses
    yield from _held("responses", responses.held)
    yield names.CACHE_SHARED_HITS, ("responses",), float(responses.shared_hits)
    yield names.CACHE_JOINED, ("responses",), float(responses.collapsed)
    yield names.CACHE_REFRESHES, ("responses",), float(responses.refreshed + responses.refresh_failures)
    yield names.CACHE_STALE, ("responses", "revalidate"), float(responses.stale_hits)
    yield names.CACHE_STALE, ("responses", "error"), float(responses.stale_errors)
    for reason, count in responses.unstorable.items():
        yield names.CACHE_REFUSED, ("responses", reason), float(count)


def _warming(warming: WarmingSnapshot) -> Iterator[Sample]:
    for kind, count in warming.warmed.items():
        yield names.CACHE_WARMED, (kind,), float(count)
    for kind, cost_ms in warming.cost_ms.items():
        yield names.CACHE_WARMING_SECONDS, (kind,), cost_ms / 1000
    for reason, count in warming.skipped.items():
        yield names.CACHE_WARMING_SKIPPED, (reason,), float(count)
    for reason, count in warming.holds.items():
        yield names.CACHE_WARMING_HELD, (reason,), float(count)
    for outcome in ("used", "wasted", "unmeasured"):
        yield names.CACHE_WARMED_ENTRIES, (outcome,), float(getattr(warming, outcome))
    yield names.CACHE_WARMING_FAILED, (), float(warming.failed)
    yield names.CACHE_WARMING_QUEUED, (), float(warming.queued)
    yield names.CACHE_WARMING_SAVED, (), warming.saved_ms / 1000


def _map(caches: Caches) -> Iterator[Sample]:
    l1 = caches.read_l1()
    yield names.CACHE_SEGMENTS, (), float(l1.resident_bytes)
    yield names.CACHE_RETURNED, (), float(l1.returned_bytes)


def _invalidation(caches: Caches) -> Iterator[Sample]:
    intents, table, check = caches.intents, caches.table, caches.check
    for event in INTENT_EVENTS:
        yield names.CACHE_INTENTS, (event,), float(getattr(intents, event))
    yield names.CACHE_INTENTS_UNFINISHED, (), float(intents.unfinished)
    yield names.CACHE_INTENTS_UNDELETED, (), float(intents.undeleted)
    if table is not None:
        yield names.CACHE_TABLE_EXACT, (), float(table.is_exact)
        yield names.CACHE_TABLE_RESYNCS, (), float(table.resyncs)
        yield names.CACHE_TABLE_LOSSES, (), float(table.losses)
    if check is not None:
        for kind in DRIFT_KINDS:
            yield names.CACHE_DRIFT, (kind,), float(getattr(check, kind))


def _purge(purge: PurgeSnapshot) -> Iterator[Sample]:
    yield names.EXTERNAL_REQUESTS, (purge.adapter, "ok"), float(purge.calls - purge.failures)
    yield names.EXTERNAL_REQUESTS, (purge.adapter, "failed"), float(purge.failures)
    yield names.PURGE_WAITING, (), float(purge.waiting)
    yield names.PURGE_OLDEST, (), purge.oldest_s
    for outcome in ("delivered", "refused", "expired"):
        yield names.PURGE_KEYS, (outcome,), float(getattr(purge, outcome))
