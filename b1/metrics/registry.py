"""The instruments of the request path, and the collector that reads everybody's snapshot when somebody scrapes.

What can be read at scrape time costs a request nothing: pools, caches, memory and loop are read from snapshots. Only counts
and durations per request are recorded as they happen, in plain numbers: the event loop's thread alone writes them, so the
locks of prometheus-client's own counters would buy nothing. Its registry and its exposition do the rest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from b1.metrics import names
from b1.metrics.names import Metric

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.core import Metric as Family

# (metric, label values, value): what a snapshot says, in the catalogue's terms.
Sample = tuple[Metric, tuple[str, ...], float]
Source = Callable[[], Iterable[Sample]]

# Answers of this profile lie between a cache hit (0.2 ms) and the request's deadline (30 s).
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0, 30.0)

# More series than this are never created: a label that grows without bound would eat the memory it reports on.
SERIES_LIMIT = 2000
_OTHER = ("other", "other", 0)


class _Durations:
    """A histogram of one method and route: counts per bucket, the last one above all bounds."""

    __slots__ = ("buckets", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.sum_s = 0.0


class _Series:
    """The answers of one method, route and status."""

    __slots__ = ("count", "durations")

    def __init__(self, durations: _Durations) -> None:
        self.count = 0
        self.durations = durations


class Metrics:
    """One registry per runtime. Written by the event loop's thread alone."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        self._registry = CollectorRegistry()
        self._sources: list[Source] = []
        self._requests: dict[tuple[str, str, int], _Series] = {}
        self._durations: dict[tuple[str, str], _Durations] = {}
        self._exceeded: dict[str, int] = {}
        self._unhandled = self._short_way_failures = 0
        self.in_flight = 0
        self.add_source(self._own_samples)
        self._registry.register(_Collector(self._sources, self._durations))

    def __repr__(self) -> str:
        return f"<Metrics series={len(self._requests)} sources={len(self._sources)}>"

    def add_source(self, source: Source) -> None:
        """Register a function that turns a snapshot into samples; called at each scrape."""
        self._sources.append(source)

    def request_answered(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one answered request."""
        series = self._requests.get((method, route, status)) or self._meet(method, route, status)
        series.count += 1
        durations = series.durations
        durations.buckets[bisect_left(BUCKETS, duration_s)] += 1
        durations.sum_s += duration_s

    def _meet(self, method: str, route: str, status: int) -> _Series:
        """Return the series of an answer that is the first of its kind, or one too many."""
        key = (method, route, status) if len(self._requests) < SERIES_LIMIT else _OTHER
        series = self._requests.get(key)
        if series is None:
            durations = self._durations.get(key[:2])
            if durations is None:
                durations = self._durations[key[:2]] = _Durations()
            series = self._requests[key] = _Series(durations)
        return series

    def limit_exceeded(self, policies: Iterable[str]) -> None:
        """Count one refusal for each policy that was violated."""
        for policy in policies:
            self._exceeded[policy] = self._exceeded.get(policy, 0) + 1

    def unhandled_error(self) -> None:
        """Count one exception that no handler caught."""
        self._unhandled += 1

    def short_way_failed(self) -> None:
        """Count one request that the short way left to the layers because something was raised."""
        self._short_way_failures += 1

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its content type, OpenMetrics when `accept` asks for it."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _own_samples(self) -> Iterator[Sample]:
        yield names.HTTP_IN_FLIGHT, (), float(self.in_flight)
        yield names.UNHANDLED, (), float(self._unhandled)
        yield names.SHORT_WAY_FAILURES, (), float(self._short_way_failures)
        for (method, route, status), series in self._requests.items():
            yield names.HTTP_REQUESTS, (method, route, str(status)), float(series.count)
        for policy, count in self._exceeded.items():
            yield names.LIMIT_EXCEEDED, (policy,), float(count)


class _Collector:
    """Turns the sources' samples and the durations into metric families at scrape time."""

    def __init__(self, sources: list[Source], durations: dict[tuple[str, str], _Durations]) -> None:
        self._sources = sources
        self._durations = durations

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
        yield self._histogram()

    def _histogram(self) -> HistogramMetricFamily:
        from prometheus_client.core import HistogramMetricFamily

        metric = names.HTTP_DURATION
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, durations in self._durations.items():
            cumulated, rows = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), durations.buckets, strict=True):
                cumulated += count
                rows.append((bound, cumulated))
            family.add_metric(labels, rows, durations.sum_s)
        return family
