from __future__ import annotations

import random

import pytest

from b1.watchdog.lag import LagSnapshot, LagWindow, Utilisation, quantiles


def window() -> LagWindow:
    return LagWindow(interval_s=0.05, lagging_s=0.25)


def test_a_window_without_beats_has_no_lag() -> None:
    assert LagSnapshot(0.0, 0.0, 0.0, 0) == window().short()


def test_one_late_beat_stands_for_those_that_it_hid() -> None:
    lags = window()
    lags.record(0.52)
    assert 11 == lags.short().samples
    assert pytest.approx(0.52) == lags.short().max_s
    assert pytest.approx(0.27) == lags.short().p50_s


def test_the_short_window_forgets_after_ten_seconds_and_the_long_one_after_a_minute() -> None:
    lags = window()
    lags.record(1.0)
    for _ in range(200):
        lags.record(0.001)
    assert pytest.approx(0.001) == lags.short().max_s
    assert pytest.approx(1.0) == lags.long().max_s
    for _ in range(1000):
        lags.record(0.001)
    assert pytest.approx(0.001) == lags.long().max_s


def test_a_beat_that_is_overdue_now_counts() -> None:
    lags = window()
    lags.record(0.001)
    assert pytest.approx(2.0) == lags.short(overdue_s=2.0).max_s


def test_a_stall_longer_than_the_window_fills_it_and_no_more() -> None:
    lags = window()
    lags.record(3600.0)
    assert 200 == lags.short().samples
    assert 1200 == lags.long().samples


def test_one_stall_of_half_a_second_is_lagging_and_one_of_a_quarter_is_not() -> None:
    lags = window()
    for _ in range(200):
        lags.record(0.0)
    lags.record(0.26)
    assert not lags.is_lagging
    lags.record(0.5)
    assert lags.is_lagging


def test_lagging_ends_when_the_window_is_calm_not_before() -> None:
    lags = window()
    for _ in range(200):
        lags.record(0.3)
    for _ in range(190):
        lags.record(0.13)  # below the mark, above half of it
    assert lags.is_lagging
    for _ in range(200):
        lags.record(0.0)
    assert not lags.is_lagging


def test_the_level_agrees_with_counting_anew() -> None:
    draw = random.Random(5)
    lags, expected = window(), False
    for _ in range(3000):
        lags.record(draw.choice((0.0, 0.0, 0.0, 0.01, 0.05, 0.2, 0.4)) * draw.random())
        recent = [lags._back(steps) for steps in range(1, min(200, lags._filled) + 1)]
        mark = 0.125 if expected else 0.25
        expected = sum(lag > mark for lag in recent) > len(recent) // 100
        assert expected == lags.is_lagging


def test_quantiles_of_a_hundred() -> None:
    assert LagSnapshot(51.0, 100.0, 100.0, 100) == quantiles(float(n) for n in range(1, 101))


def test_utilisation_forgets_the_hour_before() -> None:
    use = Utilisation()
    for second in range(3600):
        use.record(float(second), 0.0)
    for second in range(3600, 3612):
        use.record(float(second), float(second - 3600))
    assert 0.9 < use.share(3612.0, 12.0) <= 1.0


def test_utilisation_of_no_time_is_none() -> None:
    use = Utilisation()
    assert 0.0 == use.share(1.0, 1.0)
    use.record(1.0, 1.0)
    assert 0.0 == use.share(1.0, 1.0)
