"""Levels rise on readings, one early when a sign says so; reclaims are due on the edge, and seldom when in vain."""

import pytest

from b1.governor.ladder import Ladder
from b1.governor.meter import Reading
from b1.governor.reclaim import Reclaimed, Step
from b1.governor.stall import Stall
from b1.governor.watermark import Level
from b1.plan import WATERMARKS
from b1.units import MIB

LIMIT = 1000


def reading(per_cent: float, *, stall: Stall | None = None, injected: bool = False) -> Reading:
    used = int(per_cent * LIMIT * MIB / 100)
    return Reading(used, "fake", LIMIT * MIB, "fake", stall=stall or Stall(), is_injected=injected)


def returned(mib: float) -> Reclaimed:
    steps = (Step("evict", 0, 0.0), Step("trim", int(mib * MIB), 0.0))
    return Reclaimed("high", 0.0, 0, 0, steps, 0.0, is_full=False, predicted_pause_s=0.0)


def climbed(per_cent: float) -> Ladder:
    ladder = Ladder(WATERMARKS)
    for now in (0.0, 0.5):
        ladder.take(reading(per_cent), now)
    return ladder


@pytest.mark.parametrize(
    ("per_cent", "level"),
    [(69, "NORMAL"), (70, "ELEVATED"), (80, "HIGH"), (85, "SEVERE"), (90, "CRITICAL"), (95, "EMERGENCY"),
     (140, "EMERGENCY")],
)  # fmt: skip
def test_each_mark_is_a_level(per_cent: float, level: str) -> None:
    assert level == climbed(per_cent).level.name


@pytest.mark.parametrize("per_cent", [50, 72, 82, 87, 92])
def test_a_stall_acts_one_level_early(per_cent: float) -> None:
    plain, ladder = climbed(per_cent), Ladder(WATERMARKS)
    for now in (0, 0.5):
        ladder.take(reading(per_cent, stall=Stall(some_avg10=20.0)), now)
    assert (plain.level + 1, "stalls") == (ladder.level, ladder.promoted_by)


def test_nothing_is_above_emergency() -> None:
    ladder = Ladder(WATERMARKS)
    for now in (0, 0.5):
        ladder.take(reading(97, stall=Stall(full_avg10=50.0)), now)
    assert Level.EMERGENCY is ladder.level


def test_a_limit_that_is_near_in_time_acts_one_level_early() -> None:
    ladder = Ladder(WATERMARKS)
    for step in range(22):  # 15 MiB/s from 55 %: at 70 % twenty seconds are left
        ladder.take(reading(55 + 0.75 * step), step / 2)
    assert ("time-to-limit", Level.HIGH) == (ladder.promoted_by, ladder.level)
    assert 0 < (ladder.time_to_limit_s or 0) < 30


def test_the_promoted_level_is_left_when_the_sign_is_gone_for_ten_seconds() -> None:
    ladder = Ladder(WATERMARKS)
    for now in (0.0, 0.5):
        ladder.take(reading(50, stall=Stall(some_avg10=20.0)), now)
    levels = [ladder.take(reading(50), 1 + now) for now in range(12)]
    assert [Level.ELEVATED] * 10 + [Level.NORMAL] * 2 == levels


def test_injected_pressure_is_never_promoted() -> None:
    ladder = Ladder(WATERMARKS)
    for now in (0.0, 0.5):
        ladder.take(reading(82, stall=Stall(some_avg10=50.0), injected=True), now)
    assert (Level.HIGH, None) == (ladder.level, ladder.promoted_by)


def test_the_jump_to_injected_pressure_is_no_trend() -> None:
    ladder = Ladder(WATERMARKS)
    for step in range(20):
        ladder.take(reading(20), step / 2)
    for step in range(20, 40):
        ladder.take(reading(60, injected=True), step / 2)
    assert (None, 0.0) == (ladder.time_to_limit_s, ladder.slope_bytes_per_s)


def test_a_reclaim_is_due_once_per_edge() -> None:
    ladder = climbed(82)
    assert ladder.is_due(0.5)
    ladder.begin()
    assert not ladder.is_due(0.6)
    ladder.finish(returned(100), reading(82), 1.0)
    assert not ladder.is_due(30.9)
    assert ladder.is_due(31.0)


def test_a_higher_level_is_an_edge_of_its_own() -> None:
    ladder = climbed(82)
    ladder.begin()
    for now in (1.0, 1.5):
        ladder.take(reading(91), now)  # also while the first reclaim still runs
    assert ladder.is_due(1.5)


def test_the_last_level_takes_everything() -> None:
    assert (0.5, 0.5, 0.5, 1.0) == tuple(climbed(per_cent).begin() for per_cent in (82, 87, 92, 97))


def test_below_the_high_level_nothing_is_due() -> None:
    assert not climbed(75).is_due(1e9)


def test_less_than_a_twentieth_of_the_excess_is_irreclaimable() -> None:
    ladder = climbed(87)  # the high level is left at 75 %: the excess is 120 MiB
    assert ladder.finish(returned(5.9), reading(87), 1.0)
    assert ladder.is_irreclaimable
    ladder = climbed(87)
    assert not ladder.finish(returned(6.1), reading(87), 1.0)
    assert not ladder.is_irreclaimable


def test_it_is_announced_from_severe_on_and_once() -> None:
    ladder = climbed(82)
    assert not ladder.finish(returned(0), reading(82), 1.0)
    assert ladder.is_irreclaimable
    for now in (1.0, 1.5):
        ladder.take(reading(87), now)
    assert [True, False, False] == [ladder.finish(returned(0), reading(87), now) for now in (2.0, 70.0, 200.0)]


def test_a_reclaim_that_helps_lets_it_be_announced_again() -> None:
    ladder = climbed(87)
    announced = [ladder.finish(returned(mib), reading(87), 1.0) for mib in (0, 50, 0)]
    assert [True, False, True] == announced


def test_in_vain_it_is_repeated_ever_later_but_never_given_up() -> None:
    ladder, waits = climbed(87), []
    for _ in range(6):
        ladder.begin()
        ladder.finish(returned(0), reading(87), 100.0)
        waits.append(next(wait for wait in range(1000) if ladder.is_due(100.0 + wait)))
    assert [60, 120, 240, 300, 300, 300] == waits


def test_when_the_pressure_is_over_everything_is_forgotten() -> None:
    ladder = climbed(87)
    ladder.finish(returned(0), reading(87), 1.0)
    for now in range(1, 14):
        ladder.take(reading(30), now)
    assert (Level.NORMAL, False) == (ladder.level, ladder.is_irreclaimable)
    for now in (20.0, 20.5):
        ladder.take(reading(87), now)
    assert ladder.finish(returned(0), reading(87), 21.0)
