"""What is counted on the request path comes out in the text that Prometheus reads."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from b1.metrics import Metrics, names
from b1.metrics.registry import BUCKETS, SERIES_LIMIT


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition("")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_request_is_counted_with_its_status_and_timed_by_route() -> None:
    metrics = Metrics()
    for status, duration_s in ((200, 0.004), (200, 0.02), (429, 0.0002)):
        metrics.request_answered("GET", "/v1/entities", status, duration_s)
    found = scraped(metrics)
    labels = (("method", "GET"), ("route", "/v1/entities"))
    assert 2 == found["http_requests_total", (*labels, ("status", "200"))]
    assert 1 == found["http_requests_total", (*labels, ("status", "429"))]
    assert 3 == found["http_request_duration_seconds_count", labels]
    assert pytest.approx(0.0242) == found["http_request_duration_seconds_sum", labels]


@pytest.mark.parametrize(
    ("duration_s", "smallest"), [(0.0, BUCKETS[0]), (0.001, 0.001), (0.0011, 0.0025), (31.0, float("inf"))]
)
def test_a_duration_falls_into_every_bucket_that_bounds_it(duration_s: float, smallest: float) -> None:
    metrics = Metrics()
    metrics.request_answered("GET", "/", 200, duration_s)
    held = {
        float(dict(labels)["le"]): value
        for (name, labels), value in scraped(metrics).items()
        if name == "http_request_duration_seconds_bucket"
    }
    assert {bound: float(bound >= smallest) for bound in (*BUCKETS, float("inf"))} == held


def test_series_are_bounded_and_nothing_is_lost() -> None:
    metrics = Metrics()
    for number in range(SERIES_LIMIT + 50):
        metrics.request_answered("GET", f"/{number}", 200, 0.01)
    counts = [value for (name, _), value in scraped(metrics).items() if name == "http_requests_total"]
    assert SERIES_LIMIT + 1 == len(counts)
    assert SERIES_LIMIT + 50 == sum(counts)


def test_refusals_errors_and_sources_are_there() -> None:
    metrics = Metrics()
    metrics.limit_exceeded(("entities", "write"))
    metrics.limit_exceeded(("entities",))
    metrics.unhandled_error()
    metrics.add_source(lambda: [(names.DB_ACTIVE, (), 2.0)])
    found = scraped(metrics)
    assert 2 == found["rate_limit_exceeded_total", (("policy", "entities"),)]
    assert 1 == found["b1_unhandled_errors_total", ()]
    assert 2 == found["database_connections_active", ()]


def test_openmetrics_is_served_to_who_asks_for_it() -> None:
    body, content_type = Metrics().exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
