"""The alerts of a worker and of its successor: once each, ended by whoever is left, and heard by the application."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from b1.alerts import Alert, AlertOptions, Alerts, MemoryAlerts
from b1.clock import Clock, ManualClock, SystemClock
from b1.governor import GovernorOptions, Level
from tests.alerts.receiver import (
    HANG,
    answer,
    fast_options,
    receiving,
    until,
)
from tests.alerts.receiver import state_dir as state_dir
from tests.governor.fakes import Bench, FakeMeter, Holder

MIB = 1024**2


@dataclass(frozen=True)
class Reading:
    used_bytes: int
    limit_bytes: int = 1750 * MIB
    report_path: str | None = None


def at(percent: int) -> Reading:
    return Reading(1750 * MIB * percent // 100)


async def started(options: AlertOptions, clock: Clock | None = None) -> Alerts:
    alerts = Alerts(options, clock or SystemClock(), chance=lambda: 0.0)
    await alerts.start()
    return alerts


async def test_the_ladder_up_and_down_is_told_once_each() -> None:
    async with receiving() as receiver:
        alerts = await started(fast_options(receiver.url))
        await until(lambda: alerts.snapshot().is_owner)
        memory = MemoryAlerts(alerts)
        seen = [
            (Level.HIGH, 81), (Level.SEVERE, 86), (Level.CRITICAL, 91), (Level.EMERGENCY, 96), (Level.CRITICAL, 92),
            (Level.SEVERE, 86), (Level.HIGH, 81), (Level.ELEVATED, 72), (Level.NORMAL, 50),
        ]  # fmt: skip
        previous = Level.NORMAL
        for level, percent in seen:
            memory.on_level(previous, level, at(percent))
            await until(lambda: alerts.snapshot().waiting == 0)
            previous = level
        await alerts.aclose()
        assert [request.said for request in receiver.requests] == [
            ("B1MemoryHigh", "firing"),
            ("B1MemoryCritical", "firing"),
            ("B1MemoryCritical", "resolved"),
            ("B1MemoryHigh", "resolved"),
        ]
        assert len({request.id for request in receiver.requests}) == 4


async def test_a_memory_alert_carries_level_bytes_and_limit() -> None:
    async with receiving() as receiver:
        alerts = await started(fast_options(receiver.url))
        MemoryAlerts(alerts).on_level(Level.NORMAL, Level.HIGH, at(80), {"report": "/tmp/b1/memory.json"})
        (request,) = await receiver.wait_for(1)
        await alerts.aclose()
    (alert,) = request.document["alerts"]
    assert alert["labels"] == {"alertname": "B1MemoryHigh", "severity": "warning", "instance": "box-1"}
    assert alert["annotations"] == {
        "summary": "1400 MiB of 1750 MiB in use (80 %): memory is being reclaimed",
        "level": "high",
        "bytes": str(1400 * MIB),
        "limit": str(1750 * MIB),
        "report": "/tmp/b1/memory.json",
    }


async def test_the_critical_alert_says_where_the_report_lies_and_the_end_repeats_it() -> None:
    async with receiving() as receiver:
        alerts = await started(fast_options(receiver.url))
        memory = MemoryAlerts(alerts)
        memory.on_level(Level.NORMAL, Level.CRITICAL, replace(at(92), report_path="/tmp/b1/memory-1.json"))
        await receiver.wait_for(2)
        memory.on_level(Level.CRITICAL, Level.HIGH, at(82))
        requests = await receiver.wait_for(3)
        await alerts.aclose()
    reports = [request.document["commonAnnotations"].get("report") for request in requests]
    assert ["/tmp/b1/memory-1.json", None, "/tmp/b1/memory-1.json"] == reports


def test_the_critical_memory_alert_cleans_up_once_and_no_other_alert_does() -> None:
    alerts = Alerts(fast_options(None), ManualClock())
    cleaned: list[int] = []
    memory = MemoryAlerts(alerts, clean_up=lambda: cleaned.append(1))
    alerts.fire("LedgerOutOfBalance", "critical", "")
    memory.on_level(Level.NORMAL, Level.HIGH, at(82))
    assert [] == cleaned
    for level in (Level.CRITICAL, Level.EMERGENCY, Level.CRITICAL):
        memory.on_level(Level.HIGH, level, at(92))
    assert [1] == cleaned
    memory.on_level(Level.CRITICAL, Level.HIGH, at(82))
    memory.on_level(Level.HIGH, Level.CRITICAL, at(92))  # within the cool-down: nobody is told, and it is done again
    assert [1, 1] == cleaned


async def test_the_governor_the_alert_and_the_clean_up_together(tmp_path: Path, clock: ManualClock) -> None:
    meter = FakeMeter()
    bench = Bench(clock, meter, GovernorOptions(ballast_bytes=0, reports_dir=tmp_path))
    holder = Holder("cache", 40, meter=meter)
    bench.governor.register(holder)
    alerts = Alerts(fast_options(None), clock)
    bench.governor.on_level(MemoryAlerts(alerts, clean_up=bench.governor.clean_up).on_level)
    told: list[str] = []
    alerts.on_alert("critical")(lambda alert: told.append(alert.annotations["report"]))
    await bench.at(92)
    assert (0, 1) == (holder.held, bench.governor.snapshot().reclaims)
    assert [str(path) for path in tmp_path.iterdir()] == told
    await alerts.aclose()


async def test_a_jump_to_critical_tells_the_critical_one_first() -> None:
    async with receiving() as receiver:
        alerts = await started(fast_options(receiver.url))
        MemoryAlerts(alerts).on_level(Level.NORMAL, Level.CRITICAL, at(92))
        requests = await receiver.wait_for(2)
        await alerts.aclose()
    assert [request.said[0] for request in requests] == ["B1MemoryCritical", "B1MemoryHigh"]


async def test_flapping_is_told_once_and_again_when_the_cooldown_is_over(clock: ManualClock) -> None:
    async with receiving() as receiver:
        alerts = await started(fast_options(receiver.url, cooldown_s=300), clock)
        await until(lambda: alerts.snapshot().is_owner)
        memory = MemoryAlerts(alerts)
        for _ in range(10):
            memory.on_level(Level.NORMAL, Level.HIGH, at(81))
            memory.on_level(Level.HIGH, Level.NORMAL, at(60))
        memory.on_level(Level.NORMAL, Level.HIGH, at(82))
        await receiver.wait_for(2)
        clock.advance(299)
        alerts.tick()
        await until(lambda: alerts.snapshot().waiting == 0)
        assert [request.said[1] for request in receiver.requests] == ["firing", "resolved"]
        clock.advance(1)
        alerts.tick()
        requests = await receiver.wait_for(3)
        assert requests[2].said == ("B1MemoryHigh", "firing")
        await alerts.aclose()


async def test_handlers_hear_their_severity_and_every_edge() -> None:
    alerts = Alerts(fast_options(None), ManualClock())
    heard: list[str] = []
    done = asyncio.Event()

    @alerts.on_alert("critical")
    def clean_up(alert: Alert) -> None:
        heard.append(f"clean up for {alert.name}")

    @alerts.on_alert(also_resolved=True)
    async def everything(alert: Alert) -> None:
        heard.append(f"{alert.name} {alert.status}")
        if not alert.is_firing:
            done.set()

    memory = MemoryAlerts(alerts)
    for _ in range(2):  # the second time within the cool-down
        memory.on_level(Level.NORMAL, Level.CRITICAL, at(92))
        memory.on_level(Level.CRITICAL, Level.SEVERE, at(86))
    await asyncio.wait_for(done.wait(), 5)
    await alerts.aclose()
    assert heard.count("clean up for B1MemoryCritical") == 2
    assert "B1MemoryHigh firing" in heard
    assert "B1MemoryCritical resolved" in heard


async def test_a_handler_that_fails_hangs_or_floods_harms_nobody() -> None:
    alerts = Alerts(fast_options(None, handler_timeout_s=0.01), ManualClock())
    heard: list[str] = []

    @alerts.on_alert()
    def broken(alert: Alert) -> None:
        raise RuntimeError("no")

    @alerts.on_alert()
    async def hanging(alert: Alert) -> None:
        await asyncio.Event().wait()

    @alerts.on_alert()
    def good(alert: Alert) -> None:
        heard.append(alert.name)

    for number in range(20):
        alerts.fire(f"A{number}", "warning", "")
    await until(lambda: alerts.snapshot().handler_failures == 40)
    await alerts.aclose()
    assert len(heard) == 20


@pytest.mark.parametrize(("name", "severity"), [("", "warning"), ("x" * 101, "warning"), ("A", "page")])
def test_what_is_no_alert_is_refused(name: str, severity: str) -> None:
    with pytest.raises(ValueError, match=r"alert's name|not a valid Severity"):
        Alerts(fast_options(None), ManualClock()).fire(name, severity, "")


async def test_what_a_stop_cannot_deliver_is_delivered_by_the_successor_with_the_same_id(state_dir: Path) -> None:
    async with receiving(*[answer(500)] * 2) as receiver:
        first = await started(fast_options(receiver.url, state_dir=state_dir, backoff_first_s=60, backoff_max_s=60))
        first.fire("A", "critical", "bad")
        await until(lambda: first.snapshot().failed == 1)
        await first.aclose()
        assert (len(receiver.requests), first.snapshot().waiting) == (2, 1)
        second = await started(fast_options(receiver.url, state_dir=state_dir, settle_s=60))
        requests = await receiver.wait_for(3)
        await second.aclose()
    assert len({(request.id, request.body) for request in requests}) == 1


async def test_a_stop_does_not_wait_for_a_receiver_that_hangs(state_dir: Path) -> None:
    async with receiving(HANG, HANG) as receiver:
        alerts = await started(fast_options(receiver.url, state_dir=state_dir, flush_s=0.05))
        alerts.fire("A", "critical", "bad")
        await receiver.wait_for(1)
        await asyncio.wait_for(alerts.aclose(), 3)
        kept = json.loads((state_dir / "alerts.json").read_text())
    assert [record["id"] for record in kept["waiting"]] == [receiver.requests[0].id]


async def test_what_fires_at_a_stop_is_ended_by_a_successor_that_does_not_see_it(state_dir: Path) -> None:
    async with receiving() as receiver:
        first = await started(fast_options(receiver.url, state_dir=state_dir))
        MemoryAlerts(first).on_level(Level.NORMAL, Level.CRITICAL, at(92))
        await receiver.wait_for(2)
        await first.aclose()
        second = await started(fast_options(receiver.url, state_dir=state_dir, settle_s=0.05))
        requests = await receiver.wait_for(4)
        await second.aclose()
    assert sorted(request.said for request in requests[2:]) == [
        ("B1MemoryCritical", "resolved"),
        ("B1MemoryHigh", "resolved"),
    ]
    began, ended = requests[0].document["alerts"][0], requests[2].document["alerts"][0]
    assert {began["fingerprint"], requests[1].document["alerts"][0]["fingerprint"]} >= {ended["fingerprint"]}
    assert ended["startsAt"] <= ended["endsAt"]


async def test_a_successor_that_still_sees_it_tells_nothing_twice(state_dir: Path) -> None:
    async with receiving() as receiver:
        first = await started(fast_options(receiver.url, state_dir=state_dir))
        MemoryAlerts(first).on_level(Level.NORMAL, Level.HIGH, at(82))
        await receiver.wait_for(1)
        await first.aclose()
        second = await started(fast_options(receiver.url, state_dir=state_dir, settle_s=0.1))
        memory = MemoryAlerts(second)
        memory.on_level(Level.NORMAL, Level.HIGH, at(83))
        await until(lambda: second.snapshot().is_owner)
        await asyncio.sleep(0.2)  # longer than it takes to settle
        assert len(receiver.requests) == 1
        memory.on_level(Level.HIGH, Level.NORMAL, at(50))
        requests = await receiver.wait_for(2)
        await second.aclose()
    assert requests[1].said == ("B1MemoryHigh", "resolved")


async def test_during_an_overlap_the_successor_keeps_silent_and_then_takes_over(state_dir: Path) -> None:
    async with receiving() as receiver:
        old = await started(fast_options(receiver.url, state_dir=state_dir))
        MemoryAlerts(old).on_level(Level.NORMAL, Level.HIGH, at(82))
        await receiver.wait_for(1)
        new = await started(fast_options(receiver.url, state_dir=state_dir))
        MemoryAlerts(new).on_level(Level.NORMAL, Level.HIGH, at(82))
        new.fire("Own", "warning", "only here")
        await asyncio.sleep(0.1)
        assert (len(receiver.requests), new.snapshot().is_owner) == (1, False)
        await old.aclose()
        await receiver.wait_for(2)
        MemoryAlerts(new).on_level(Level.HIGH, Level.NORMAL, at(50))
        requests = await receiver.wait_for(3)
        await new.aclose()
    assert [request.said for request in requests] == [
        ("B1MemoryHigh", "firing"), ("Own", "firing"), ("B1MemoryHigh", "resolved"),
    ]  # fmt: skip


async def test_a_second_copy_that_never_becomes_the_owner_speaks_after_the_overlap(state_dir: Path) -> None:
    async with receiving() as receiver:
        first = await started(fast_options(receiver.url, state_dir=state_dir))
        await until(lambda: first.snapshot().is_owner)
        second = await started(fast_options(receiver.url, state_dir=state_dir, overlap_s=0.1))
        second.fire("Second", "warning", "")
        (request,) = await receiver.wait_for(1)
        assert (request.said[0], second.snapshot().is_owner) == ("Second", False)
        await second.aclose()
        await first.aclose()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 99}', '{"version": 1}', '{"version": 1, "book": {"firing": [{}]}, "waiting": 3}',
     '{"version": 1, "book": [], "waiting": [{"id": "a\\nb"}]}', '{"version":1,"book":{},"unknown":1}'],
)  # fmt: skip
async def test_a_journal_that_is_damaged_or_foreign_costs_its_content_and_nothing_else(
    state_dir: Path, content: str
) -> None:
    state_dir.mkdir()
    (state_dir / "alerts.json").write_text(content)
    async with receiving() as receiver:
        alerts = await started(fast_options(receiver.url, state_dir=state_dir))
        alerts.fire("A", "warning", "")
        (request,) = await receiver.wait_for(1)
        await until(lambda: alerts.snapshot().waiting == 0)
        await alerts.aclose()
    assert request.said == ("A", "firing")
    assert json.loads((state_dir / "alerts.json").read_text())["version"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_what_another_user_put_into_the_folder_is_not_sent_in_our_name(state_dir: Path) -> None:
    async with receiving() as receiver:
        first = await started(fast_options(receiver.url, state_dir=state_dir))
        first.fire("A", "warning", "")
        await receiver.wait_for(1)
        await first.aclose()
        os.chown(state_dir / "alerts.json", 12345, 12345)
        second = await started(fast_options(receiver.url, state_dir=state_dir))
        second.fire("B", "warning", "")
        requests = await receiver.wait_for(2)
        await until(lambda: second.snapshot().waiting == 0)
        await second.aclose()
    assert [request.said for request in requests] == [("A", "firing"), ("B", "firing")]


async def test_a_state_folder_that_cannot_be_used_does_not_keep_alerts_from_being_sent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with receiving() as receiver:
        alerts = await started(fast_options(receiver.url, state_dir=tmp_path / "file" / "state"))
        alerts.fire("A", "warning", "")
        await receiver.wait_for(1)
        await alerts.aclose()
        assert alerts.snapshot().journal_errors == 1


async def test_a_thousand_changes_while_the_receiver_is_away_stay_within_the_bound(state_dir: Path) -> None:
    options = fast_options("http://127.0.0.1:9/", state_dir=state_dir, cooldown_s=0.0, queue_limit=16)
    alerts = await started(options)
    await until(lambda: alerts.snapshot().is_owner)
    for _ in range(500):
        alerts.fire("Noisy", "warning", "x" * 400)
        alerts.resolve("Noisy")
    await until(lambda: alerts.snapshot().failed >= 1)
    await alerts.aclose()
    seen = alerts.snapshot()
    assert (seen.waiting, seen.dropped) == (16, 984)
    assert (state_dir / "alerts.json").stat().st_size < 32_000
