"""Stalls, swap-in and the trend: signs that come before the limit."""

from pathlib import Path

import pytest

from b1.governor.stall import Stall, StallReader, read_pressure
from b1.governor.trend import Trend
from b1.host import MemoryGroup
from b1.units import MIB


def pressure(some: float, full: float) -> str:
    return f"some avg10={some} avg60=1.00 avg300=1.00 total=9\nfull avg10={full} avg60=0.00 avg300=0.00 total=9\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_an_absent_file_is_no_sign(tmp_path: Path) -> None:
    stall = StallReader(root=tmp_path).read(0)
    assert Stall() == stall
    assert stall.reason is None


@pytest.mark.parametrize("text", ["", "garbage", "some", "some avg10=", "some avg10=much full"])
def test_an_unreadable_pressure_is_no_sign(tmp_path: Path, text: str) -> None:
    assert {} == read_pressure(write(tmp_path / "memory", text))


@pytest.mark.parametrize(
    ("stall", "reason"),
    [
        (Stall(9.99, 1.99, 256.0), None),
        (Stall(some_avg10=10.0), "stalls"),
        (Stall(full_avg10=2.0), "stalls"),
        (Stall(swap_in_pages_per_s=257.0), "swap-in"),
    ],
)
def test_thresholds(stall: Stall, reason: str | None) -> None:
    assert reason == stall.reason


def test_the_machines_stalls_are_read(tmp_path: Path) -> None:
    write(tmp_path / "proc/pressure/memory", pressure(12.5, 3.25))
    assert Stall(12.5, 3.25, None) == StallReader(root=tmp_path).read(0)


def test_our_own_groups_stalls_come_before_the_machines(tmp_path: Path) -> None:
    write(tmp_path / "proc/pressure/memory", pressure(99.0, 99.0))
    write(tmp_path / "group/memory.pressure", pressure(1.0, 0.5))
    stall = StallReader(root=tmp_path).read(0, [MemoryGroup(tmp_path / "group", 2)])
    assert (1.0, 0.5) == (stall.some_avg10, stall.full_avg10)


def test_swap_in_is_a_rate_between_two_reads(tmp_path: Path) -> None:
    reader = StallReader(root=tmp_path)
    write(tmp_path / "proc/vmstat", "pswpin 1000\npswpout 5\n")
    assert reader.read(0).swap_in_pages_per_s is None
    write(tmp_path / "proc/vmstat", "pswpin 3000\n")
    assert 400.0 == reader.read(5).swap_in_pages_per_s
    assert 0.0 == reader.read(10).swap_in_pages_per_s


def line(slope_mib_per_s: float, *, seconds: float = 10.0, start: int = 100) -> Trend:
    trend = Trend()
    for step in range(round(seconds * 2) + 1):
        trend.add(step / 2, int((start + slope_mib_per_s * step / 2) * MIB))
    return trend


def test_a_steady_growth_reaches_the_limit_in_time() -> None:
    trend = line(10)
    assert 10.0 == round(trend.slope_bytes_per_s / MIB, 3)
    assert 20.0 == round(trend.time_to_limit_s(400 * MIB) or 0, 3)


@pytest.mark.parametrize("slope", [0.0, -5.0, 0.1])
def test_what_does_not_rise_never_reaches_it(slope: float) -> None:
    assert line(slope).time_to_limit_s(400 * MIB) is None


def test_five_seconds_are_needed_for_a_trend() -> None:
    assert line(50, seconds=4.5).time_to_limit_s(400 * MIB) is None
    assert line(50, seconds=5).time_to_limit_s(400 * MIB) is not None


def test_what_is_older_than_ten_seconds_does_not_count() -> None:
    trend = line(20)
    for step in range(30):
        trend.add(10.5 + step / 2, 300 * MIB)
    assert 0.0 == trend.slope_bytes_per_s


def test_past_the_limit_no_time_is_left() -> None:
    assert 0.0 == line(10).time_to_limit_s(150 * MIB)


def test_a_clock_that_does_not_move_has_no_slope() -> None:
    trend = Trend()
    for used in (1, 500, 900):
        trend.add(5.0, used * MIB)
    assert 0.0 == trend.slope_bytes_per_s
