"""Levels rise on the second sample and fall only after calm."""

from b1.governor.watermark import Level, Watermark
from b1.plan import WATERMARKS


def test_one_sample_above_is_not_yet_a_level() -> None:
    watermark = Watermark(WATERMARKS)
    assert Level.NORMAL is watermark.update(0.82, 0)
    assert Level.HIGH is watermark.update(0.82, 0.5)


def test_a_spike_of_one_sample_is_forgotten() -> None:
    watermark = Watermark(WATERMARKS)
    levels = [watermark.update(ratio, now) for now, ratio in enumerate([0.97, 0.5, 0.97, 0.5])]
    assert levels == [Level.NORMAL] * 4


def test_a_level_is_left_after_ten_calm_seconds_five_points_below() -> None:
    watermark = Watermark(WATERMARKS)
    for now in (0, 1):
        watermark.update(0.81, now)
    assert Level.HIGH is watermark.update(0.78, 2)  # below the mark, not below the margin
    assert Level.HIGH is watermark.update(0.74, 20)
    assert Level.HIGH is watermark.update(0.74, 29)
    assert Level.ELEVATED is watermark.update(0.74, 30)


def test_calm_starts_anew_when_the_pressure_returns() -> None:
    watermark = Watermark(WATERMARKS)
    for now in (0, 1):
        watermark.update(0.81, now)
    watermark.update(0.60, 2)
    watermark.update(0.79, 8)
    assert Level.HIGH is watermark.update(0.60, 13)
    assert Level.NORMAL is watermark.update(0.60, 23)


def test_levels_may_be_skipped_on_the_way_up() -> None:
    watermark = Watermark(WATERMARKS)
    watermark.update(0.96, 0)
    assert Level.EMERGENCY is watermark.update(0.96, 1)
