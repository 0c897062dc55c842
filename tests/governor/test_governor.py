"""The governor climbs the ladder: it tells, evicts, collects, trims, writes down, and gives up its ballast last."""

import asyncio
import gc
import itertools
import json
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from b1.cache import L1
from b1.clock import ManualClock
from b1.governor import Governor, GovernorOptions, GovernorSnapshot, Level
from b1.governor.stall import Stall
from b1.governor.witness import Witness
from b1.plan import WATERMARKS
from b1.units import MIB
from tests.governor.fakes import LIMIT, Bench, FakeMeter, Holder


@pytest.fixture
def meter() -> FakeMeter:
    return FakeMeter()


@pytest.fixture
def bench(clock: ManualClock, meter: FakeMeter) -> Bench:
    return Bench(clock, meter)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop and the governor's thread run until the condition holds, within a bound."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.get_running_loop().run_in_executor(None, os.getpid)
    raise AssertionError("the condition never held")


async def test_every_level_is_told_once_on_the_way_up_and_down(bench: Bench) -> None:
    for per_cent in (50, 72, 82, 87, 92, 97):
        await bench.at(per_cent, samples=4)
    await bench.at(40, samples=30)
    up = ["normal", "elevated", "high", "severe", "critical", "emergency"]
    assert [*itertools.pairwise(up), ("emergency", "normal")] == bench.levels


async def test_listeners_are_told_before_anything_is_reclaimed(bench: Bench, meter: FakeMeter) -> None:
    holder = Holder("cache", 60, meter=meter)
    bench.governor.register(holder)
    seen: list[tuple[str, int]] = []
    bench.governor.on_level(lambda _, level, snapshot: seen.append((snapshot.level, dict(snapshot.held)["cache"])))
    await bench.at(82)
    assert [("high", 60 * MIB)] == seen
    assert 30 * MIB == holder.held


async def test_a_listener_that_fails_stops_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ValueError("listener")

    told: list[Level] = []
    bench.governor.on_level(fail)
    bench.governor.on_level(lambda _, level, __: told.append(level))
    bench.governor.on_irreclaimable(fail)
    await bench.at(87)
    assert [Level.SEVERE] == told
    assert 1 == bench.irreclaimable
    assert 2 == sum("listener of the governor failed" in record.message for record in caplog.records)


async def test_half_of_the_cache_is_evicted_at_the_high_level(bench: Bench, clock: ManualClock) -> None:
    l1 = L1(10 * MIB, clock)
    for number in range(64):
        l1.put(f"k{number}", b"x" * 10_000, 10_000, ttl_s=60, versions=())
    bench.governor.register(l1)
    before = l1.held_bytes()
    await bench.at(79, samples=3)
    assert before == l1.held_bytes()
    await bench.at(82)
    assert before // 4 < l1.held_bytes() <= before // 2


async def test_a_cache_that_hears_the_levels_stops_growing_and_does_not_grow_back(
    bench: Bench, clock: ManualClock
) -> None:
    l1 = L1(16 * MIB, clock)
    bench.governor.register(l1)
    bench.governor.on_level(lambda _, level, __: l1.set_level(level))

    def put(count: int) -> None:
        for number in range(count):
            l1.put(f"k{clock.monotonic()}-{number}", b"", 10_000, ttl_s=600, versions=())

    put(800)
    full = l1.held_bytes()
    await bench.at(72)
    put(800)
    assert full - 11_000 <= l1.held_bytes() <= full
    await bench.at(82)
    half = l1.held_bytes()
    put(800)
    assert half <= full // 2 + 11_000
    assert l1.held_bytes() <= half
    await bench.at(50, samples=25)
    put(1600)
    assert ("normal", 16 * MIB) == (bench.governor.level.name.lower(), l1.ceiling_bytes)
    assert l1.held_bytes() > full


async def test_a_level_that_holds_is_reclaimed_once(bench: Bench, meter: FakeMeter) -> None:
    bench.governor.register(Holder("cache", 200, meter=meter))
    await bench.at(82, samples=1)
    for _ in range(20):
        await bench.at(82, samples=1)
    assert 1 == bench.governor.snapshot().reclaims
    await bench.at(82, samples=60)
    assert 2 == bench.governor.snapshot().reclaims


async def test_a_reclaim_that_helps_brings_the_level_back(bench: Bench, meter: FakeMeter) -> None:
    bench.governor.register(Holder("cache", 400, meter=meter))
    await bench.at(82)
    assert 620 * MIB == meter.used
    assert "normal" == await bench.go(30)
    snapshot = bench.governor.snapshot()
    assert (1, 200 * MIB, {"evict": 200 * MIB, "collect": 0, "trim": 0}) == (
        snapshot.reclaims,
        snapshot.reclaimed_bytes,
        {"trim": 0, **dict(snapshot.returned_by_step)},
    )


async def test_what_cannot_be_reclaimed_is_announced_once_and_not_collected_in_a_loop(bench: Bench) -> None:
    await bench.at(82, samples=4)
    assert (0, True) == (bench.irreclaimable, bench.governor.snapshot().is_irreclaimable)
    await bench.at(87, samples=120)  # a minute
    assert (1, 2) == (bench.irreclaimable, bench.governor.snapshot().reclaims)


async def test_the_last_level_drops_the_caches_and_the_ballast(clock: ManualClock, meter: FakeMeter) -> None:
    bench = Bench(clock, meter, GovernorOptions(ballast_bytes=8 * MIB))
    holder = Holder("cache", 60, meter=meter)
    bench.governor.register(holder)
    bench.governor.start()  # its own tasks act beside the ones below
    try:
        assert 8 * MIB == bench.governor.snapshot().ballast_bytes
        await bench.at(97)
        await until(lambda: (holder.held, bench.governor.snapshot().ballast_bytes) == (0, 0))
        await bench.at(82, samples=25)
        assert 0 == bench.governor.snapshot().ballast_bytes
        await bench.at(40, samples=25)
        await until(lambda: bench.governor.snapshot().ballast_bytes == 8 * MIB)
    finally:
        await bench.governor.aclose()


async def test_a_stall_promotes_and_the_snapshot_says_so(bench: Bench, meter: FakeMeter) -> None:
    meter.stall = Stall(some_avg10=30.0, full_avg10=4.0, swap_in_pages_per_s=1.0)
    assert "high" == await bench.at(72)
    snapshot = bench.governor.snapshot()
    assert ("stalls", 30.0, 4.0) == (snapshot.promoted_by, snapshot.stall_some, snapshot.stall_full)


async def test_a_new_level_is_measured_exactly(bench: Bench, meter: FakeMeter) -> None:
    await bench.at(50, samples=4)
    assert 0 == meter.exact_reads
    await bench.at(72, samples=4)
    assert 1 == meter.exact_reads


async def test_a_limit_that_falls_raises_the_level(bench: Bench, meter: FakeMeter) -> None:
    await bench.at(60)
    meter.limit = LIMIT * 7 // 10
    assert "severe" == await bench.go(2)


async def test_asking_for_a_reclaim_returns_what_it_did(bench: Bench, meter: FakeMeter) -> None:
    bench.governor.register(Holder("cache", 60, meter=meter))
    reclaimed = await bench.governor.reclaim(1.0)
    assert ("asked", 60 * MIB) == (reclaimed.level, reclaimed.evicted_bytes)


async def test_the_report_says_what_holds_the_memory(clock: ManualClock, meter: FakeMeter, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    bench = Bench(clock, meter, GovernorOptions(ballast_bytes=0, reports_dir=folder))
    bench.governor.register(Holder("small", 1))
    bench.governor.register(Holder("large", 20))
    await bench.at(92)
    [file] = folder.iterdir()
    assert file.name == bench.governor.snapshot().report
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    report = json.loads(file.read_text())
    assert ("critical", "large") == (report["level"], report["reclaimables"][0]["name"])
    assert {"builtins.function", "builtins.tuple"} <= {one["type"] for one in report["types"]}
    assert "MainThread" in {thread["name"] for thread in report["threads"]}
    assert report["tasks"]["count"] >= 1
    assert [] == report["trace"]
    assert "fake limit" == report["memory"]["limit_source"]
    assert len(file.read_bytes()) < 64 * 1024


async def test_the_report_has_its_path_when_the_level_is_told_and_shows_what_was_held_then(
    clock: ManualClock, meter: FakeMeter, tmp_path: Path
) -> None:
    bench = Bench(clock, meter, GovernorOptions(ballast_bytes=0, reports_dir=tmp_path))
    bench.governor.register(Holder("cache", 20, meter=meter))
    told: dict[str, str | None] = {}

    def hear(_: Level, level: Level, snapshot: GovernorSnapshot) -> None:
        told[level.name.lower()] = snapshot.report_path
        if level is Level.CRITICAL:
            bench.governor.clean_up()

    bench.governor.on_level(hear)
    await bench.at(82)
    await bench.at(92)
    [file] = tmp_path.iterdir()
    assert {"high": None, "critical": str(file)} == told
    report = json.loads(file.read_text())
    assert [{"name": "cache", "held_bytes": 10 * MIB}] == report["reclaimables"]
    assert 10 * MIB == report["memory"]["last_reclaim"]["evicted_bytes"]


async def test_no_path_is_promised_where_reports_cannot_be_written(
    clock: ManualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    witness = Witness(clock, tmp_path / "file", apart_s=300, off_loop=asyncio.to_thread, requests=None)
    await witness.check()
    witness.want()
    assert (None, True) == (witness.path, witness.is_due())  # tried all the same: the folder may be back
    assert "memory reports cannot be written" in caplog.text


async def test_a_clean_up_takes_everything_in_one_step(bench: Bench, meter: FakeMeter) -> None:
    holder = Holder("cache", 40, meter=meter)
    bench.governor.register(holder)

    def hear(_: Level, level: Level, __: GovernorSnapshot) -> None:
        if level is Level.CRITICAL:
            bench.governor.clean_up()
            bench.governor.clean_up()

    bench.governor.on_level(hear)
    await bench.at(92)
    assert (0, 1) == (holder.held, bench.governor.snapshot().reclaims)
    last = bench.governor.snapshot().last_reclaim
    assert last is not None
    assert 40 * MIB == last.evicted_bytes


async def test_a_clean_up_at_the_normal_level_is_made_and_no_cause_for_a_replacement(bench: Bench) -> None:
    bench.governor.clean_up()
    await bench.at(20)
    assert (1, 0, "normal") == (
        bench.governor.snapshot().reclaims,
        bench.irreclaimable,
        bench.governor.level.name.lower(),
    )


async def test_one_report_for_one_crisis_and_the_next_after_five_minutes(
    clock: ManualClock, meter: FakeMeter, tmp_path: Path
) -> None:
    bench = Bench(clock, meter, GovernorOptions(ballast_bytes=0, reports_dir=tmp_path / "state"))
    for _ in range(4):  # 96 s apart
        await bench.at(92, samples=6)
        await bench.at(97, samples=6)
        await bench.at(40, samples=180)
    assert 1 == len(list((tmp_path / "state").iterdir()))
    await bench.at(92)
    assert 2 == len(list((tmp_path / "state").iterdir()))


async def test_recent_large_requests_are_in_the_report_within_bounds(clock: ManualClock, tmp_path: Path) -> None:
    governor = Governor(
        clock,
        limit_bytes=LIMIT,
        marks=WATERMARKS,
        interval_s=0.5,
        options=GovernorOptions(reports_dir=tmp_path),
        meter=FakeMeter(),
        large_requests=lambda: [{"route": "/x" * 500, "bytes": 7}] * 100,
    )
    path = await governor.write_report()
    assert path is not None
    requests = json.loads(path.read_text())["large_requests"]
    assert (20, 200, 7) == (len(requests), len(requests[0]["route"]), requests[0]["bytes"])


async def test_a_report_that_cannot_be_written_is_said_and_stops_nothing(
    clock: ManualClock, meter: FakeMeter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    bench = Bench(clock, meter, GovernorOptions(ballast_bytes=0, reports_dir=tmp_path / "file"))
    assert "critical" == await bench.at(92)
    assert bench.governor.snapshot().report is None
    assert "memory report not written" in caplog.text


async def test_a_trace_window_names_the_line_that_allocated(
    clock: ManualClock, meter: FakeMeter, tmp_path: Path
) -> None:
    options = GovernorOptions(ballast_bytes=0, reports_dir=tmp_path, trace_window_s=60)
    bench = Bench(clock, meter, options)
    await bench.at(72)
    held = [bytes(100_000) for _ in range(50)]
    await bench.at(92)
    [file] = tmp_path.iterdir()
    [*lines] = json.loads(file.read_text())["trace"]
    assert any("test_governor.py" in line["line"] and line["held_bytes"] >= 5_000_000 for line in lines)
    assert 50 == len(held)


async def test_a_trace_window_that_nothing_came_of_ends_with_a_report(
    clock: ManualClock, meter: FakeMeter, tmp_path: Path
) -> None:
    bench = Bench(clock, meter, GovernorOptions(ballast_bytes=0, reports_dir=tmp_path))
    assert bench.governor.trace(5)
    assert not bench.governor.trace(5)
    await bench.go(11)
    assert 1 == len(list(tmp_path.iterdir()))


async def test_pressure_is_injected_through_a_file_up_every_rung(clock: ManualClock, tmp_path: Path) -> None:
    file = tmp_path / "inject-pressure"
    governor = Governor(
        clock,
        limit_bytes=64 * 1024 * MIB,
        marks=WATERMARKS,
        interval_s=0.5,
        options=GovernorOptions(injection_file=file),
    )
    irreclaimable: list[str] = []
    governor.on_irreclaimable(lambda snapshot: irreclaimable.append(snapshot.level))
    await governor.reclaim(1.0)  # what other tests left behind comes back now, and not when it would spoil the yields
    levels = []
    for text in ("", "0.72", "0.82", "0.87", "0.92", "0.97"):
        file.write_text(text)
        for _ in range(2):
            clock.advance(0.5)
            await governor.sample()
        levels.append(governor.snapshot().level)
        await governor.act()
    assert ["normal", "elevated", "high", "severe", "critical", "emergency"] == levels
    assert ["severe"] == irreclaimable  # staging proves the replacement, too
    assert governor.snapshot().is_injected
    await governor.aclose()


async def test_a_rise_during_a_long_reclaim_is_noticed_and_acted_on(bench: Bench, meter: FakeMeter) -> None:
    class Rising(Holder):
        """Its owner allocates as fast as it is emptied."""

        def reclaim(self, target_bytes: int) -> int:
            meter.used = LIMIT * 97 // 100
            return super().reclaim(target_bytes)

    holder = Rising("rising", 64)
    bench.governor.register(holder)
    meter.used = LIMIT * 82 // 100
    for _ in range(2):
        await bench.governor.sample()
    acting = asyncio.create_task(bench.governor.act())
    while not holder.asked:
        await asyncio.sleep(0)
    for _ in range(2):
        await bench.governor.sample()
    await acting
    assert [("normal", "high"), ("high", "emergency")] == bench.levels
    await bench.governor.act()
    assert (0, 2) == (holder.held, bench.governor.snapshot().reclaims)


async def test_the_real_memory_of_this_process_is_read_and_everything_ends(
    clock: ManualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks, tasks = len(gc.callbacks), len(asyncio.all_tasks())
    governor = Governor(clock, limit_bytes=100 * MIB, marks=WATERMARKS, interval_s=0.5)
    governor.start()
    try:
        assert governor.snapshot().used_bytes > 10 * MIB
        await governor.sample()
        assert governor.snapshot().limit_source in ("configured", "cgroup v1", "cgroup v2") or "host" in repr(
            governor.snapshot()
        )
    finally:
        await governor.aclose()
    assert (callbacks, tasks) == (len(gc.callbacks), len(asyncio.all_tasks()))
    assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]


async def test_a_governor_that_dies_says_so(
    clock: ManualClock, meter: FakeMeter, caplog: pytest.LogCaptureFixture
) -> None:
    meter.limit = 0  # no meter says this; the division fails as any defect would
    governor = Bench(clock, meter).governor
    governor.start()
    try:
        await until(lambda: "the governor has stopped" in caplog.text)
    finally:
        await governor.aclose()
