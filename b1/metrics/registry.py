"""The instruments of the request path, and the collector that reads everybody's snapshot when somebody scrapes.

What can be read at scrape time costs a request nothing: pools, caches, memory and loop are read from snapshots.
Only counts and durations per request are recorded as they happen, through children that are looked up once per route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from b1.metrics import names
from b1.metrics.names import Metric

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram
    from prometheus_client.core import Metric as Family

# (metric, label values, value): what a snapshot says, in the catalogue's terms.
Sample = tuple[Metric, tuple[str, ...], float]
Source = Callable[[], Iterable[Sample]]

# Answers of this profile lie between a cache hit (0.2 ms) and the request's deadline (30 s).
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0, 30.0)

# More series than this are never created: a label that grows without bound would eat the memory it reports on.
SERIES_LIMIT = 2000


class Metrics:
    """One registry per runtime."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._registry = CollectorRegistry()
        self._sources: list[Source] = []
        self._requests = Counter(*_declaration(names.HTTP_REQUESTS), registry=self._registry)
        self._durations = Histogram(*_declaration(names.HTTP_DURATION), registry=self._registry, buckets=BUCKETS)
        self._exceeded = Counter(*_declaration(names.LIMIT_EXCEEDED), registry=self._registry)
        self._unhandled = Counter(*_declaration(names.UNHANDLED), registry=self._registry)
        self._request_children: dict[tuple[str, str, int], Counter] = {}
        self._duration_children: dict[tuple[str, str], Histogram] = {}
        self._exceeded_children: dict[str, Counter] = {}
        self.in_flight = 0
        self.add_source(lambda: [(names.HTTP_IN_FLIGHT, (), float(self.in_flight))])
        self._registry.register(_SnapshotCollector(self._sources))

    def __repr__(self) -> str:
        return f"<Metrics series={len(self._request_children)} sources={len(self._sources)}>"

    def add_source(self, source: Source) -> None:
        """Register a function that turns a snapshot into samples; called at each scrape."""
        self._sources.append(source)

    def request_answered(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one answered request."""
        counted = self._request_children.get((method, route, status))
        timed = self._duration_children.get((method, route))
        if counted is None or timed is None:
            counted, timed = self._new_children(method, route, status)
        counted.inc()
        timed.observe(duration_s)

    def limit_exceeded(self, policies: Iterable[str]) -> None:
        """Count one refusal for each policy that was violated."""
        for policy in policies:
            child = self._exceeded_children.get(policy)
            if child is None:
                child = self._exceeded_children[policy] = self._exceeded.labels(policy)
            child.inc()

    def unhandled_error(self) -> None:
        """Count one exception that no handler caught."""
        self._unhandled.inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its content type, OpenMetrics when `accept` asks for it."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _new_children(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        if len(self._request_children) >= SERIES_LIMIT:
            method, route, status = "other", "other", 0
        counted = self._requests.labels(method, route, str(status))
        timed = self._durations.labels(method, route)
        self._request_children[(method, route, status)] = counted
        self._duration_children[(method, route)] = timed
        return counted, timed


class _SnapshotCollector:
    """Turns the sources' samples into metric families at scrape time."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def describe(self) -> Iterator[Family]:
        return iter(())

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for source in self._sources:
            for metric, labels, value in source():
                family = families.get(metric.name)
                if family is None:
                    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                    family = families[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
                family.add_metric(labels, value)
        yield from families.values()


def _declaration(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.help, metric.labels
