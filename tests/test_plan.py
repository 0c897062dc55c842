"""Every number follows from the box and the wishes, and says why."""

import dataclasses

import pytest

from b1.alerts import AlertOptions
from b1.governor import GovernorOptions
from b1.host import Host, MemoryLimit
from b1.plan import WATERMARKS, make_plan
from b1.settings import Settings

MIB = 1024**2


def box(limit_mib: int = 1750, source: str = "cgroup v2", stop_limit_s: float | None = None) -> Host:
    return Host(
        memory=MemoryLimit(limit_mib * MIB, source),
        total_bytes=limit_mib * MIB,
        cpus=1.0,
        open_files=1024,
        platform="container",
        site_name=None,
        stop_limit_s=stop_limit_s,
        page_bytes=4096,
        has_dev_shm=True,
    )


def test_the_same_box_and_wishes_give_the_same_plan() -> None:
    assert make_plan(box(), Settings()) == make_plan(box(), Settings())


def test_every_number_has_a_reason() -> None:
    plan = make_plan(box(), Settings())
    names = {field.name for field in dataclasses.fields(plan)} - {"reasons"}
    assert names == set(plan.reasons)
    assert [name for name, reason in plan.reasons.items() if len(reason) < 10] == []
    assert len(names) == len(plan.rows())


def test_the_budgets_of_a_b1() -> None:
    plan = make_plan(box(), Settings())
    assert (plan.workers, plan.db_connections, plan.redis_connections, plan.memory_limit_bytes) == (1, 3, 2, 1750 * MIB)


def test_a_big_machine_plans_for_a_b1_unless_told_otherwise() -> None:
    assert make_plan(box(24_000, "machine"), Settings()).memory_limit_bytes == 1750 * MIB
    asked = make_plan(box(24_000, "machine"), Settings(memory_limit=4000 * MIB))
    assert asked.memory_limit_bytes == 4000 * MIB
    assert asked.reasons["memory_limit_bytes"].startswith("B1_MEMORY_LIMIT;")


def test_a_wish_above_the_box_does_not_raise_the_limit() -> None:
    plan = make_plan(box(640), Settings(memory_limit=1750 * MIB))
    assert plan.memory_limit_bytes == 640 * MIB
    assert "cgroup v2" in plan.reasons["memory_limit_bytes"]


@pytest.mark.parametrize("limit_mib", [128, 640, 1750])
def test_caches_and_stores_leave_the_worker_its_room(limit_mib: int) -> None:
    plan = make_plan(box(limit_mib), Settings())
    assert plan.cache_limit_bytes + plan.store_limit_bytes <= plan.memory_limit_bytes // 8


def test_watermarks_rise() -> None:
    plan = make_plan(box(), Settings())
    marks = [plan.watermark_bytes(level) for level in WATERMARKS]
    assert sorted(marks) == marks
    assert plan.watermark_bytes("high") == 1400 * MIB


@pytest.mark.parametrize(("stop_limit_s", "expected"), [(None, 25), (5.0, 4), (10.0, 9), (60.0, 25), (1.0, 1)])
def test_a_stop_ends_before_the_platform_kills(stop_limit_s: float | None, expected: int) -> None:
    assert expected == make_plan(box(stop_limit_s=stop_limit_s), Settings()).graceful_stop_s


def test_the_governor_and_the_alerts_have_the_plans_numbers_by_default() -> None:
    plan = make_plan(box(), Settings())
    governor, alerts = GovernorOptions(), AlertOptions()
    assert (
        plan.memory_reserve_bytes,
        plan.memory_ballast_bytes,
        plan.memory_collection_s,
        plan.memory_report_apart_s,
    ) == (governor.reserve_bytes, governor.ballast_bytes, governor.full_collection_s, governor.reports_apart_s)
    assert (
        plan.alert_cooldown_s,
        plan.alert_settle_s,
        plan.alert_overlap_s,
        plan.alert_queue,
        plan.alert_keep_s,
        plan.alert_attempt_s,
        plan.alert_backoff_first_s,
        plan.alert_backoff_most_s,
        plan.alert_retry_after_most_s,
        plan.alert_flush_s,
        plan.alert_handler_s,
    ) == (
        alerts.cooldown_s,
        alerts.settle_s,
        alerts.overlap_s,
        alerts.queue_limit,
        alerts.keep_s,
        alerts.attempt_timeout_s,
        alerts.backoff_first_s,
        alerts.backoff_max_s,
        alerts.retry_after_max_s,
        alerts.flush_s,
        alerts.handler_timeout_s,
    )


@pytest.mark.parametrize(
    ("limit_mib", "ballast_mib", "handover_mib", "reserve_mib"), [(128, 2, 2, 8), (640, 8, 8, 40), (1750, 8, 8, 96)]
)
def test_what_is_set_aside_is_small_beside_the_box(
    limit_mib: int, ballast_mib: int, handover_mib: int, reserve_mib: int
) -> None:
    plan = make_plan(box(limit_mib), Settings())
    assert (ballast_mib * MIB, handover_mib * MIB, reserve_mib * MIB) == (
        plan.memory_ballast_bytes,
        plan.handover_limit_bytes,
        plan.memory_reserve_bytes,
    )
