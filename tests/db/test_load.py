"""How busy, how long a wait, and when that is called saturated; a clock that the test moves."""

from __future__ import annotations

import random

import pytest

from b1.db.erlang import mean_wait, wait_quantile
from b1.db.load import BUSY, Histogram, Load


class Traffic:
    """Feeds a load second by second."""

    def __init__(self) -> None:
        self.load = Load(3)
        self.now_s = 100.0
        self.at_once = 0
        self.load.sample(self.now_s, open_s=0.0, at_once=0)

    def second(self, *, leases: int, held_s: float, wait_s: float = 0.0) -> None:
        for _ in range(leases):
            self.load.served(held_s)
            if wait_s:
                self.load.waited(wait_s)
            else:
                self.at_once += 1
        self.now_s += 1
        self.load.sample(self.now_s, open_s=0.0, at_once=self.at_once)


def test_quantiles_are_within_an_eighth() -> None:
    dice = random.Random(1)
    values = sorted(dice.lognormvariate(-6, 1.5) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (0.5, 0.95, 0.99):
        assert histogram.quantile(share) == pytest.approx(values[int(share * 5000)], rel=0.125)
    assert histogram.quantile(0.5, zeros=5001) == 0.0
    assert histogram.quantile(0.99, zeros=5000) == pytest.approx(values[int(0.98 * 5000)], rel=0.125)


@pytest.mark.parametrize("duration_s", [0.0, 1e-6, 3e-6, 4e-6, 7e-6, 8e-6, 1e-3, 1.0, 60.0, 1e9])
def test_every_duration_has_a_place(duration_s: float) -> None:
    histogram = Histogram()
    histogram.add(duration_s)
    assert histogram.count == 1
    if duration_s < 600:
        assert histogram.quantile(1.0) == pytest.approx(duration_s, rel=0.13)


def test_the_window_forgets() -> None:
    histogram = Histogram()
    histogram.add(1.0)
    histogram.turn()
    assert histogram.count == 1
    histogram.turn()
    assert histogram.count == 0


def test_utilisation_is_busy_time_by_connections_and_window() -> None:
    traffic = Traffic()
    for _ in range(12):
        traffic.second(leases=30, held_s=0.05)
    now = traffic.load.snapshot(expected_wait_s=0.0)
    assert now.utilisation == pytest.approx(0.5)
    assert now.service_mean_s == pytest.approx(0.05)
    assert (now.wait_p99_s, now.is_saturated) == (0.0, False)


def test_an_open_lease_counts_while_it_lasts() -> None:
    load = Load(3)
    for second in range(13):
        load.sample(100.0 + second, open_s=3.0 * second, at_once=3)
    assert load.snapshot(expected_wait_s=0.0).utilisation == pytest.approx(1.0)
    assert load.is_saturated


def test_a_moment_of_full_use_is_not_saturation() -> None:
    traffic = Traffic()
    for _ in range(10):
        traffic.second(leases=10, held_s=0.05)
    for _ in range(5):
        traffic.second(leases=60, held_s=0.05)
    assert not traffic.load.is_saturated
    for _ in range(6):
        traffic.second(leases=60, held_s=0.05)
    assert traffic.load.is_saturated


def test_it_ends_with_some_distance() -> None:
    traffic = Traffic()
    for _ in range(11):
        traffic.second(leases=58, held_s=0.05)
    assert traffic.load.is_saturated
    for _ in range(11):
        traffic.second(leases=int(60 * BUSY) - 3, held_s=0.05)
    assert traffic.load.is_saturated
    for _ in range(11):
        traffic.second(leases=40, held_s=0.05)
    assert not traffic.load.is_saturated


def test_long_waits_are_saturation_when_the_connections_are_busy() -> None:
    traffic = Traffic()
    for _ in range(11):
        traffic.second(leases=40, held_s=0.05, wait_s=0.3)
    assert traffic.load.is_saturated
    now = traffic.load.snapshot(expected_wait_s=0.0)
    assert now.wait_p50_s == pytest.approx(0.3, rel=0.125)


def test_long_waits_without_work_are_not() -> None:
    traffic = Traffic()
    for _ in range(11):
        traffic.second(leases=20, held_s=0.005, wait_s=0.3)  # connections that had to be opened
    assert not traffic.load.is_saturated


def test_nothing_happened_is_nothing() -> None:
    load = Load(3)
    assert not load.is_due(float("-inf"))
    load.sample(5.0, open_s=0.0, at_once=0)
    assert (load.is_due(5.5), load.is_due(6.0)) == (False, True)
    assert load.snapshot(expected_wait_s=0.0).callers == 0
    assert not load.is_saturated


def test_a_simulated_queue_waits_as_the_formula_says() -> None:
    """M/M/3 at 0.8, first come first served: the observed figures and Erlang's."""
    dice = random.Random(11)
    load = Load(3)
    arrival_s, free_s, total_s, at_once, callers = 0.0, [0.0, 0.0, 0.0], 0.0, 0, 60_000
    for _ in range(callers):
        arrival_s += dice.expovariate(3 * 0.8)
        free_s.sort()
        start_s = max(arrival_s, free_s[0])
        free_s[0] = start_s + dice.expovariate(1.0)
        wait_s = start_s - arrival_s
        total_s += wait_s
        if wait_s:
            load.waited(wait_s)
        else:
            at_once += 1
    load.sample(1.0, open_s=0.0, at_once=at_once)
    assert total_s / callers == pytest.approx(mean_wait(3, 0.8), rel=0.15)
    assert load.snapshot(expected_wait_s=0.0).wait_p99_s == pytest.approx(wait_quantile(3, 0.8, 0.99), rel=0.25)
