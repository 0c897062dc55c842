"""What `/internal/cache-stats`, the health report and the metrics say of the caches, from one set of snapshots."""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest

from b1.asgi.caching.service import ResponseCache
from b1.asgi.endpoints.cache_samples import cache_samples
from b1.asgi.endpoints.cache_stats import Caches, cache_stats, read_caches
from b1.asgi.endpoints.health import State, components, overall
from b1.cache import L1, CacheSnapshot, Checker, Drift, Intents, NamespaceCount, Rules
from b1.clock import ManualClock
from b1.metrics.names import CATALOGUE
from b1.purge import PurgeSnapshot
from b1.store.memory import MemoryStore
from b1.store.mirror import Mirror
from b1.units import MIB
from tests.asgi.test_probes import STATE

PURGE = PurgeSnapshot(
    adapter="fastly", waiting=3, delivered=5, calls=4, failures=1, refused=1, expired=0, collapsed=0, oldest_s=1.5,
    failures_in_row=0, last_failure=None,
)  # fmt: skip
DATA = CacheSnapshot(
    enabled=True, entries=4, held_bytes=4096, limit_bytes=MIB, hits=6, misses=2, loads_running=1, evictions={"quota": 7},
    l1_hits=4, l2_hits=2, loads=2, joined=1, stale={"error": 1}, refused={"changed": 3}, errors={"load": 1},
    namespaces={"entity": NamespaceCount(3, 1), "report": NamespaceCount(0, 0)}, invalidations_pending=2,
)  # fmt: skip


async def _nothing() -> None: ...


def caches(*, versions: object = None) -> Caches:
    clock = ManualClock()
    l1, store = L1(MIB, clock), MemoryStore(MIB, clock)
    l1.put("entity:1", b"x" * 100, 100, ttl_s=60, versions=l1.versions_of(("a",)), owner="1")
    return read_caches(
        responses=ResponseCache(l1, clock, store=store),
        l1=l1,
        intents=Intents(Rules(), lambda hard, soft: _nothing(), clock),
        purge=None,
        versions=versions,
        checker=Checker(l1, l1.sample, clock),
    )


def state(found: Caches | None = None) -> State:
    return replace(STATE, cache=DATA, caches=caches() if found is None else found)


def test_the_stats_keep_the_numbers_of_the_map_and_tell_layers_copies_and_namespaces() -> None:
    shown = cache_stats(state())
    assert (4, 4096, {"quota": 7}) == (shown["entries"], shown["held_bytes"], shown["evictions"])
    assert [0.75, None] == [one["hit_rate"] for one in shown["namespaces"]]
    data = [one for one in shown["copies"] if one["layer"] == "data"]
    assert [("l1", 4, 4), ("l2", 2, 2)] == [(one["copy"], one["hits"], one["misses"]) for one in data]
    assert [{"organization": "1", "held_bytes": shown["tenants"][0]["held_bytes"]}] == shown["tenants"]
    assert {"error": 1} == shown["data"]["stale"]


def test_the_stats_are_json_with_all_that_can_be_there() -> None:
    drift = Drift(
        at_s=1.0, took_s=0.1, entries=1, checked=1, missed=0, l1_l2_differs=0, stale=1, unknown=0, compared_l2=0,
        compared_source=1, absent_l2=0, moved=0, errors=0, accounted_bytes=1, segments_bytes=1, resident_bytes=None,
        table_is_exact=None, table_number=None, is_complete=True, findings=(),
    )  # fmt: skip
    found = replace(caches(versions=Mirror(ManualClock(), lambda: True)), purge=PURGE, check=drift)
    shown = json.loads(orjson.dumps(cache_stats(state(found))))
    assert ("fastly", False, False) == (
        shown["purge"]["adapter"],
        shown["check"]["is_clean"],
        shown["table"]["is_exact"],
    )


def test_real_bytes_are_measured_where_the_system_says() -> None:
    clock = ManualClock()
    l1 = L1(MIB, clock)
    for number in range(50):
        l1.put(f"k{number}", bytes(1000), 1000, ttl_s=60, versions=l1.versions_of(()))
    found = replace(caches(), read_l1=l1.snapshot)
    shown = cache_stats(state(found), l1.maps())["bytes"]
    assert shown["segments_real"] in (None, shown["segments"])
    assert 50_000 <= shown["segments"] <= shown["accounted"]


def test_without_the_other_snapshots_the_rest_is_said() -> None:
    bare = replace(STATE, cache=DATA, caches=None)
    assert "responses" not in cache_stats(bare)
    assert "healthy" == components(bare)["cache"]["status"]
    assert list(cache_samples(bare))


def test_every_sample_is_of_the_catalogue_with_its_labels() -> None:
    found = replace(caches(versions=Mirror(ManualClock(), lambda: True)), purge=PURGE)
    seen = [(metric, labels) for metric, labels, _ in cache_samples(state(found))]
    assert [] == [
        metric.name for metric, labels in seen if metric not in CATALOGUE or len(labels) != len(metric.labels)
    ]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("b1_cache_evictions_total", ("quota",), 7),
        ("b1_cache_shared_hits_total", ("data",), 2),
        ("b1_cache_namespace_hits_total", ("entity",), 3),
        ("b1_cache_stale_total", ("data", "error"), 1),
        ("b1_cache_refused_total", ("data", "changed"), 3),
        ("b1_cache_invalidations_pending", (), 2),
        ("b1_cache_table_exact", (), 0),
        ("external_api_requests_total", ("fastly", "ok"), 3),
        ("external_api_requests_total", ("fastly", "failed"), 1),
        ("b1_purge_waiting", (), 3),
        ("b1_purge_keys_total", ("delivered",), 5),
    ],
)
def test_what_the_snapshots_count_is_measured(name: str, labels: tuple[str, ...], value: float) -> None:
    found = replace(caches(versions=Mirror(ManualClock(), lambda: True)), purge=PURGE)
    assert value == {(one.name, given): number for one, given, number in cache_samples(state(found))}[name, labels]


def test_a_cdn_that_takes_no_purges_degrades_the_component() -> None:
    well = state(replace(caches(), purge=replace(PURGE, failures_in_row=1)))
    failing = state(replace(caches(), purge=replace(PURGE, failures_in_row=5)))
    assert ["healthy", "degraded"] == [components(one)["cache"]["status"] for one in (well, failing)]
    assert "degraded" == overall(failing)


def test_the_component_says_whether_copies_are_known_to_be_current() -> None:
    exact, not_exact = state(), state(caches(versions=Mirror(ManualClock(), lambda: True)))
    assert [True, False] == [components(one)["cache"]["validated_without_a_trip"] for one in (exact, not_exact)]
    assert "disabled" == components(replace(exact, cache=replace(DATA, enabled=False)))["cache"]["status"]
