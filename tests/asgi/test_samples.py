"""What the snapshots say reaches the metrics under the catalogue's names."""

from __future__ import annotations

from dataclasses import replace

from b1.asgi.endpoints.health import LastReplacement, State, Workers
from b1.asgi.endpoints.samples import samples
from b1.metrics.names import CATALOGUE, Metric
from tests.asgi.test_probes import STATE


def values(state: State) -> dict[tuple[str, tuple[str, ...]], float]:
    return {(metric.name, labels): value for metric, labels, value in samples(state)}


def test_every_sample_is_of_the_catalogue_with_its_labels() -> None:
    workers = Workers({"killed": 1}, {("serial", "memory"): 1}, LastReplacement("serial", "memory", 0.8, 0.0))
    state = replace(STATE, workers=workers, refusals={"HEADERS_TOO_SLOW": 1})
    seen: list[tuple[Metric, tuple[str, ...]]] = [(metric, labels) for metric, labels, _ in samples(state)]
    assert [] == [
        metric.name for metric, labels in seen if metric not in CATALOGUE or len(labels) != len(metric.labels)
    ]


def test_refusals_and_workers_are_counted() -> None:
    last = LastReplacement("handover", "memory", 0.02, 0.0)
    workers = Workers({"clean": 2, "boot": 0}, {("handover", "memory"): 2}, last, is_tripped=True)
    found = values(replace(STATE, workers=workers, refusals={"HEADERS_TOO_LARGE": 4}))
    assert 4 == found["b1_protocol_refusals_total", ("HEADERS_TOO_LARGE",)]
    assert (2, 0) == (found["b1_worker_endings_total", ("clean",)], found["b1_worker_endings_total", ("boot",)])
    assert 2 == found["b1_worker_replacements_total", ("handover", "memory")]
    assert (0.02, 1) == (
        found["b1_worker_replacement_pause_seconds", ("handover",)],
        found["b1_worker_replacements_tripped", ()],
    )


def test_without_a_server_of_ours_nothing_is_said_of_workers() -> None:
    assert [] == [name for name, _ in values(STATE) if name.startswith("b1_worker_")]


def test_signs_that_the_machine_does_not_give_are_absent() -> None:
    none = replace(STATE.memory, stall_some=None, stall_full=None, time_to_limit_s=None)
    some = replace(STATE.memory, stall_some=12.0, stall_full=1.0, time_to_limit_s=29.0)
    names = {"b1_memory_stall_ratio", "b1_memory_time_to_limit_seconds"}
    assert not names & {name for name, _ in values(replace(STATE, memory=none))}
    found = values(replace(STATE, memory=some))
    assert (0.12, 29.0) == (found["b1_memory_stall_ratio", ("some",)], found["b1_memory_time_to_limit_seconds", ()])
