"""The adaptive limit. Claims with an origin in brackets are Netflix' concurrency-limits' and Envoy's, on our algorithm."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from b1.admission.limit import MIXED, PROBE_EVERY_S, PROBE_FIRST_S, WINDOW_S, WINDOW_SAMPLES, Times, VegasLimit


class Fleet:
    """Requests of one route, as a closed server of fixed capacity would take them."""

    def __init__(self, *, initial: int = 10, least: int = 2, most: int = 100) -> None:
        self.vegas = VegasLimit(initial, least, most, random=Random(1))
        self.times = Times()
        self.now_s = 100.0

    def windows(self, count: int, seconds: float | Callable[[int], float], *, in_work: int | None = None) -> int:
        """Run whole windows and return the limit. `seconds` may depend on the limit; `in_work`: the limit, if not given."""
        for _ in range(count):
            limit = self.vegas.limit
            took_s = seconds(limit) if callable(seconds) else seconds
            for _ in range(WINDOW_SAMPLES):
                self.vegas.take(self.times, took_s, limit if in_work is None else in_work, self.now_s)
            self.now_s += WINDOW_S
        return self.vegas.limit

    def know(self, seconds: float) -> None:
        """Have it learn the unloaded time: windows without pressure."""
        self.windows(20, seconds, in_work=1)


def test_the_limit_grows_while_nothing_queues() -> None:
    """[VegasLimitTest.increaseLimit]"""
    fleet = Fleet()
    fleet.know(0.010)
    before = fleet.vegas.limit
    assert before < fleet.windows(3, 0.010)


def test_the_limit_shrinks_while_requests_queue() -> None:
    """[VegasLimitTest.decreaseLimit]"""
    fleet = Fleet(initial=20)
    fleet.know(0.010)
    assert fleet.windows(3, 0.050) < 20


def test_the_limit_stays_while_as_many_queue_as_may() -> None:
    """[VegasLimitTest.noChangeIfWithinThresholds]"""
    fleet = Fleet(initial=12)
    fleet.know(0.010)
    within_s = 0.010 * 1.5 / (1 - 3 / 12)  # 3 of 12 in line: between alpha and beta
    assert fleet.windows(4, within_s) == 12


def test_a_limit_that_is_not_used_does_not_change() -> None:
    """[AIMDLimitTest.successOverflow: inflight * 2 < limit]"""
    fleet = Fleet(initial=20)
    assert fleet.windows(50, 0.010, in_work=9) == 20


@pytest.mark.parametrize(("seconds", "bound"), [(0.010, 30), (10.0, 4)])
def test_the_limit_stays_within_its_bounds(seconds: float, bound: int) -> None:
    fleet = Fleet(initial=10, least=4, most=30)
    fleet.know(0.010)
    assert fleet.windows(60, seconds) == bound


def test_no_window_closes_on_few_samples() -> None:
    """[gradient_controller_test.NoSamplesTest]"""
    fleet = Fleet()
    for _ in range(WINDOW_SAMPLES - 1):
        fleet.now_s += 10.0
        fleet.vegas.take(fleet.times, 5.0, 10, fleet.now_s)
    assert fleet.vegas.limit == 10


def test_a_known_capacity_is_found_and_kept() -> None:
    """One core: ten requests fill it, more only queue. The limit settles a few above ten, from below and from above."""
    for initial in (2, 90):
        fleet = Fleet(initial=initial)
        fleet.know(0.010)
        settled = fleet.windows(200, lambda limit: 0.010 * max(1.0, limit / 10))
        assert 10 <= settled <= 22


def test_under_standing_pressure_one_window_runs_at_half_the_limit_and_the_limit_returns() -> None:
    """[gradient_controller_test.MinRTTReturnToPreviousLimit]"""
    fleet = Fleet(initial=12)
    fleet.know(0.010)
    steady_s = 0.010 * 1.5 / (1 - 3 / 12)
    seen = [
        fleet.windows(1, lambda limit: steady_s if limit > 6 else 0.010)
        for _ in range(int(1.5 * PROBE_EVERY_S / WINDOW_S))
    ]
    assert {6, 12} == set(seen)
    assert seen.count(6) <= 2
    assert seen[-1] == 12


def test_a_probe_teaches_what_the_unloaded_time_is() -> None:
    """[gradient_controller_test.MinRTTEpoch: what was measured before does not outlive it]"""
    fleet = Fleet(initial=10)
    fleet.windows(1, 0.080)  # the first window was under load already
    fleet.windows(int((PROBE_FIRST_S + PROBE_EVERY_S) / WINDOW_S) + 20, lambda limit: 0.010 * max(1.0, limit / 10))
    assert fleet.times.unloaded_s < 0.050


def test_a_limit_that_was_never_felt_is_doubled_once_in_the_time_of_a_request() -> None:
    fleet = Fleet(initial=8)
    fleet.know(0.45)  # five windows long
    assert [16] * 5 + [32] * 5 + [64] == [fleet.windows(1, 0.45) for _ in range(11)]


def test_slow_start_ends_at_the_first_queue_for_good() -> None:
    fleet = Fleet(initial=8)
    fleet.know(0.1)
    assert 16 == fleet.windows(1, 0.1)
    after = fleet.windows(1, 0.1 * 1.5 / (1 - 3 / 16))  # 3 in line: neither more nor less
    assert (16, 20) == (after, fleet.windows(1, 0.1))


def test_slow_start_ends_when_what_it_did_is_felt_although_the_first_requests_came_in_a_crowd() -> None:
    fleet = Fleet(initial=8)
    fleet.windows(1, 0.4)  # taken for the unloaded time
    doubled = fleet.windows(5, 0.05, in_work=16)
    assert doubled == fleet.windows(1, 0.1) - 4


def test_the_usual_time_is_known_when_a_window_has_closed() -> None:
    fleet = Fleet()
    assert 0.0 == fleet.vegas.usual_s
    fleet.know(0.25)
    assert 0.25 == pytest.approx(fleet.vegas.usual_s)


def test_routes_of_different_length_share_a_limit() -> None:
    fleet, slow = Fleet(), Times()
    for _ in range(60):
        for _ in range(WINDOW_SAMPLES):
            fleet.vegas.take(fleet.times, 0.002, 2, fleet.now_s)
            fleet.vegas.take(slow, 0.500, 2, fleet.now_s)
        fleet.now_s += WINDOW_S
    before = fleet.vegas.limit
    for _ in range(5):  # pressed, and as fast as ever: many slow ones now are no sign of a queue
        for _ in range(WINDOW_SAMPLES):
            fleet.vegas.take(slow, 0.500, fleet.vegas.limit, fleet.now_s)
        fleet.now_s += WINDOW_S
    assert fleet.vegas.limit > before


def test_a_known_queue_needs_no_estimate_and_no_probe() -> None:
    """Four fill the core, each further one stands in line; known from the first window on."""
    vegas, now_s, seen = VegasLimit(40, 2, 100, random=Random(1), slack=MIXED), 0.0, []
    times = Times()
    for _ in range(600):
        limit = vegas.limit
        for _ in range(WINDOW_SAMPLES):
            elapsed_s = 0.010 * max(4, limit)
            vegas.take_known(times, elapsed_s, elapsed_s - 0.040, limit, now_s)
        now_s += WINDOW_S
        seen.append(vegas.limit)
        assert not vegas.is_probing
    assert set(seen[50:]) <= {5, 6, 7}


def test_a_second_queue_behind_the_known_one_bounds_the_limit() -> None:
    """Three places of 40 ms each behind the core: more than a few at once only wait for them, in a line of its own."""
    vegas, times, now_s = VegasLimit(4, 2, 200, random=Random(1), slack=MIXED), Times(), 0.0
    for _ in range(5):  # unpressed at first, as at any start
        for _ in range(WINDOW_SAMPLES):
            vegas.take_known(times, 0.040, 0.0, 1, now_s)
        now_s += WINDOW_S
    for _ in range(300):
        limit = vegas.limit
        for _ in range(WINDOW_SAMPLES):
            vegas.take_known(times, 0.040 * max(1.0, limit / 3), 0.0, limit, now_s)
        now_s += WINDOW_S
    assert vegas.limit < 12
