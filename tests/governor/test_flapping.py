"""Memory that breathes around a mark, and clocks that jump: the ladder and its alerts keep their calm."""

from __future__ import annotations

import random
from pathlib import Path

from b1.alerts import Alerts, MemoryAlerts
from b1.clock import ManualClock
from b1.governor import GovernorOptions, Level
from b1.governor.watermark import Watermark
from b1.plan import WATERMARKS
from b1.units import MIB
from tests.alerts.receiver import fast_options, receiving, until
from tests.governor.fakes import LIMIT, Bench, FakeMeter, Holder


class JumpingClock(ManualClock):
    def jump(self, seconds: float) -> None:
        """Set the wall clock; the monotonic one does not know."""
        self._wall += seconds


async def test_memory_that_breathes_around_a_mark_changes_the_level_once(clock: ManualClock) -> None:
    bench = Bench(clock, FakeMeter())
    for _ in range(300):
        await bench.at(81)
        await bench.at(79)
    assert [("normal", "high")] == bench.levels


async def test_breathing_evicts_once_and_then_every_half_minute_at_most(clock: ManualClock) -> None:
    bench = Bench(clock, meter := FakeMeter())
    bench.governor.register(Holder("cache", 100, meter=meter))
    for _ in range(150):  # 300 s
        await bench.at(81)
        await bench.at(79)
    assert bench.governor.snapshot().reclaims <= 1 + 300 // 30


def test_noise_alone_never_raises_a_level_that_no_two_samples_in_a_row_reach() -> None:
    watermark, choose = Watermark(WATERMARKS), random.Random(11)
    for number in range(5000):
        is_spike = number % 2 == 0
        ratio = choose.uniform(0.7, 1.2) if is_spike else choose.uniform(0.0, 0.69)
        assert Level.NORMAL is watermark.update(ratio, number * 0.5)


def test_a_level_is_never_left_for_one_that_is_higher_and_never_skipped_into_without_cause() -> None:
    watermark, choose = Watermark(WATERMARKS), random.Random(5)
    marks = sorted(WATERMARKS.values())
    before, now_s = Level.NORMAL, 0.0
    for _ in range(5000):
        now_s += choose.choice([0.5, 0.5, 0.5, 11.0])
        ratio = choose.uniform(0.5, 1.0)
        level = watermark.update(ratio, now_s)
        if level > before:
            assert ratio * 100 >= marks[level - 1]
        if level < before:
            assert ratio * 100 < marks[before - 1] - 4.999
        before = level


async def test_a_level_that_flaps_for_an_hour_is_told_within_the_cooldowns(clock: ManualClock) -> None:
    async with receiving() as receiver:
        bench = Bench(clock, meter := FakeMeter())
        alerts = Alerts(fast_options(receiver.url, cooldown_s=300), clock, chance=lambda: 0.0)
        await alerts.start()
        await until(lambda: alerts.snapshot().is_owner)
        bench.governor.on_level(MemoryAlerts(alerts).on_level)
        for _ in range(3600 // 24):  # 2 s above the mark, 22 s far below: the level is left and reached again each time
            for per_cent, pause_s in ((82, 1), (82, 1), (50, 1), (50, 11), (50, 10)):
                meter.used = LIMIT * per_cent // 100
                clock.advance(pause_s)
                await bench.governor.sample()
            alerts.tick()
        await until(lambda: alerts.snapshot().waiting == 0)
        await alerts.aclose()
    said = [request.said for request in receiver.requests]
    assert 100 < len(bench.levels)
    assert 2 <= said.count(("B1MemoryHigh", "firing")) <= 1 + 3600 // 300
    assert said.count(("B1MemoryHigh", "resolved")) <= said.count(("B1MemoryHigh", "firing"))


async def test_a_wall_clock_that_jumps_moves_no_level_and_costs_no_report(tmp_path: Path) -> None:
    clock = JumpingClock()
    bench = Bench(clock, FakeMeter(), GovernorOptions(ballast_bytes=0, reports_dir=tmp_path))
    await bench.at(82)
    for seconds in (86_400 * 365, -86_400 * 730, 86_400 * 365):
        clock.jump(seconds)
        assert "high" == await bench.at(82)
    assert 0.0 == bench.governor.snapshot().slope_bytes_per_s
    await bench.at(92)
    clock.jump(-86_400 * 365)
    clock.advance(400)
    await bench.at(40, samples=60)
    await bench.at(92)
    assert 2 == len(list(tmp_path.iterdir()))


async def test_a_process_that_was_stopped_for_an_hour_has_no_trend_of_before(clock: ManualClock) -> None:
    bench = Bench(clock, meter := FakeMeter(300))
    for _ in range(20):
        meter.used += 5 * MIB
        await bench.go(1)
    assert bench.governor.snapshot().slope_bytes_per_s > 0
    clock.advance(3600)
    await bench.go(1)
    seen = bench.governor.snapshot()
    assert (0.0, None, "normal") == (seen.slope_bytes_per_s, seen.time_to_limit_s, seen.level)
