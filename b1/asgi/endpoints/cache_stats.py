"""What all caches of the process say, put together: ``/internal/cache-stats`` and the component of the health report.

Two things are read only when somebody asks and not with every probe: the largest tenants, which are found by sorting them
all, and what the system really holds, which is asked page by page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from b1.asgi.caching.service import ResponseCache
from b1.asgi.caching.snapshot import ResponseCacheSnapshot
from b1.cache import L1, CacheSnapshot, Checker, Drift, Intents, IntentsSnapshot, Warming, WarmingSnapshot
from b1.cache.l1.measuring import resident_bytes
from b1.cache.l1.table import L1Snapshot
from b1.purge import PurgeQueue, PurgeSnapshot
from b1.store.mirror import Mirror, MirrorSnapshot

if TYPE_CHECKING:
    from b1.asgi.endpoints.health import State

# Of the data cache; the rest of its snapshot is about the map that all caches share.
_OF_DATA = (
    "l1_hits", "l2_hits", "loads", "joined", "refreshes", "stale", "refused", "errors", "loads_running",
    "invalidations_pending", "promoted", "dictionaries", "held",
)  # fmt: skip
# Attempts that fail in a row, as for the alert: a single one is repeated within seconds.
_TROUBLE_AFTER = 5


@dataclass(frozen=True, slots=True)
class Caches:
    """The snapshots of one moment; that of the data cache is in `State`.

    Attributes:
        read_l1: snapshot of the map that all share; sorts its tenants.
        purge: None without a CDN.
        table: this process's copy of the versions in Redis; None without Redis, where the table itself is here.
        check: the last coherency check; None before the first.
    """

    responses: ResponseCacheSnapshot
    read_l1: Callable[[], L1Snapshot]
    intents: IntentsSnapshot
    purge: PurgeSnapshot | None = None
    table: MirrorSnapshot | None = None
    check: Drift | None = None
    warming: WarmingSnapshot | None = None


def read_caches(
    *,
    responses: ResponseCache,
    l1: L1,
    intents: Intents,
    purge: PurgeQueue | None,
    versions: object,
    checker: Checker | None,
    warming: Warming | None = None,
) -> Caches:
    """Read all of them; no I/O.

    Args:
        versions: of the store; only a mirror has something to say.
    """
    return Caches(
        responses=responses.snapshot(),
        read_l1=l1.snapshot,
        intents=intents.snapshot(),
        purge=None if purge is None else purge.snapshot(),
        table=versions.snapshot() if isinstance(versions, Mirror) else None,
        check=None if checker is None else checker.snapshot(),
        warming=None if warming is None else warming.snapshot(),
    )


def cache_component(state: State, *, is_redis_away: bool) -> dict[str, Any]:
    """Return the component; degraded while copies cannot be held against Redis, or a CDN serves what was invalidated."""
    if not state.cache.enabled:
        return {"status": "disabled", "entries": state.cache.entries}
    caches = state.caches
    is_cdn_behind = caches is not None and caches.purge is not None and caches.purge.failures_in_row >= _TROUBLE_AFTER
    component: dict[str, Any] = {
        "status": "degraded" if is_redis_away or is_cdn_behind else "healthy",
        "entries": state.cache.entries,
        "held_bytes": state.cache.held_bytes,
        "hit_rate": _rate(
            sum(hits for _, hits, _ in state.cache_layers), sum(misses for _, _, misses in state.cache_layers)
        ),
    }
    if caches is not None:
        component["invalidations_pending"] = state.cache.invalidations_pending + caches.intents.unfinished
        component["validated_without_a_trip"] = caches.table is None or caches.table.is_exact
    return component


def cache_stats(state: State, maps: Iterable[Any] = ()) -> dict[str, Any]:
    """Return the answer of ``/internal/cache-stats``.

    Args:
        maps: of the map's segments, to be measured.
    """
    cache = state.cache
    stats: dict[str, Any] = {
        "entries": cache.entries,
        "held_bytes": cache.held_bytes,
        "limit_bytes": cache.limit_bytes,
        "ceiling_bytes": cache.ceiling_bytes,
        "evictions": cache.evictions,
        "layers": [
            {"layer": name, "hits": hits, "misses": misses, "hit_rate": _rate(hits, misses)}
            for name, hits, misses in state.cache_layers
        ],
        "namespaces": [
            {"namespace": name, "hits": one.hits, "misses": one.misses, "hit_rate": _rate(one.hits, one.misses)}
            for name, one in sorted(cache.namespaces.items())
        ],
        "data": {name: getattr(cache, name) for name in _OF_DATA},
    }
    if state.caches is not None:
        stats.update(_rest(state.caches, cache, maps))
    return stats


def _rest(caches: Caches, cache: CacheSnapshot, maps: Iterable[Any]) -> dict[str, Any]:
    responses, l1, check = caches.responses, caches.read_l1(), caches.check
    return {
        "copies": [
            *_copies("responses", responses.hits, responses.shared_hits, responses.misses),
            *_copies("data", cache.hits, cache.l2_hits, cache.misses),
        ],
        "bytes": {
            "accounted": l1.held_bytes,
            "segments": l1.resident_bytes,
            "segments_real": _measured(maps),
            "returned": l1.returned_bytes,
        },
        "tenants": [{"organization": name, "held_bytes": held_bytes} for name, held_bytes in l1.tenants],
        "responses": asdict(responses),
        "intents": asdict(caches.intents),
        "purge": None if caches.purge is None else asdict(caches.purge),
        "table": None if caches.table is None else asdict(caches.table),
        "warming": None if caches.warming is None else asdict(caches.warming),
        "check": None if check is None else {"is_clean": check.is_clean, **asdict(check)},
    }


def _copies(layer: str, hits: int, shared_hits: int, misses: int) -> list[dict[str, Any]]:
    """Return what the copy here and the one in Redis answered; Redis is asked only where the first has nothing."""
    here = hits - shared_hits
    return [
        {"layer": layer, "copy": copy, "hits": found, "misses": not_found, "hit_rate": _rate(found, not_found)}
        for copy, found, not_found in (("l1", here, shared_hits + misses), ("l2", shared_hits, misses))
    ]


def _measured(maps: Iterable[Any]) -> int | None:
    """Return what of the segments is in memory, as the system says; None where it does not."""
    total = 0
    for one in resident_bytes(maps):
        if one is None:
            return None
        total += one
    return total


def _rate(hits: int, misses: int) -> float | None:
    return round(hits / (hits + misses), 4) if hits + misses else None
