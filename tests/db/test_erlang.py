"""M/M/c against values that are known in closed form."""

from __future__ import annotations

import math

import pytest

from b1.db.erlang import mean_wait, wait_quantile, waiting_probability


@pytest.mark.parametrize(
    ("servers", "utilisation", "expected"),
    [
        (1, 0.7, 0.7),  # one server: the probability is the utilisation
        (2, 0.5, 1 / 3),  # two: 2 r^2 / (1 + r)
        (2, 0.8, 2 * 0.64 / 1.8),
        (3, 2 / 3, 4 / 9),  # two erlangs on three servers, the example of the textbooks
        (10, 0.8, 0.409180),
        (3, 0.0, 0.0),
    ],
)
def test_the_probability_of_waiting(servers: int, utilisation: float, expected: float) -> None:
    assert waiting_probability(servers, utilisation) == pytest.approx(expected, abs=1e-6)


def test_the_recursion_is_erlangs_sum() -> None:
    for servers in range(1, 30):
        offered = 0.85 * servers
        last = offered**servers / math.factorial(servers) / 0.15
        expected = last / (sum(offered**n / math.factorial(n) for n in range(servers)) + last)
        assert waiting_probability(servers, 0.85) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("utilisation", "waits", "mean", "p99"),
    [(0.5, 0.24, 0.16, 2.1), (0.7, 0.49, 0.55, 4.3), (0.8, 0.65, 1.08, 7.0), (0.9, 0.82, 2.72, 14.7),
     (0.95, 0.91, 6.05, 30.1)],
)  # fmt: skip
def test_the_table_of_the_documentation(utilisation: float, waits: float, mean: float, p99: float) -> None:
    assert waiting_probability(3, utilisation) == pytest.approx(waits, abs=0.005)
    assert mean_wait(3, utilisation) == pytest.approx(mean, abs=0.006)
    assert wait_quantile(3, utilisation, 0.99) == pytest.approx(p99, abs=0.06)


def test_a_share_that_need_not_wait_waits_nothing() -> None:
    assert wait_quantile(3, 0.5, 0.7) == 0.0


@pytest.mark.parametrize(("servers", "utilisation"), [(0, 0.5), (3, 1.0), (3, -0.1)])
def test_a_queue_without_a_steady_state_is_refused(servers: int, utilisation: float) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        waiting_probability(servers, utilisation)
    with pytest.raises(ValueError, match="share"):
        wait_quantile(3, 0.5, 1.0)
