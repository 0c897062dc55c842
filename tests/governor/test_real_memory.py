"""Real memory, real control groups, real clocks: what the governor measures, and what really leaves the process.

Real version-1 groups need a writable hierarchy (root): elsewhere those tests are skipped with that reason. Version 2 is
proven on file trees alone (test_meter.py), because a machine has its memory controller in one of the two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from b1.plan import ALLOCATOR_ENVIRONMENT
from b1.units import MIB

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
HIERARCHY = Path("/sys/fs/cgroup/memory")


def trial(*arguments: str, group: Path | None = None) -> dict[str, Any]:
    """Run a trial in a process of its own, inside a control group when one is given."""
    command = [sys.executable, "-m", "tests.governor.trial", *arguments]
    if group is not None:
        command = ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh", *command]
    environment = {**os.environ, **ALLOCATOR_ENVIRONMENT}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr[-2000:]
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@pytest.fixture
def group() -> Iterator[Path]:
    """A version-1 memory group with a limit of 200 MiB and no swap."""
    if not (HIERARCHY / "memory.limit_in_bytes").exists():
        pytest.skip("no version-1 memory hierarchy here: the same shapes are tested on file trees")
    folder = HIERARCHY / f"b1-governor-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here ({error.strerror}): needs root")
    try:
        (folder / "memory.limit_in_bytes").write_text(str(200 * MIB))
        yield folder
    finally:
        folder.rmdir()


@pytest.mark.parametrize(("name", "share"), [("freed-buffers", 1.0), ("freed-half", 0.5)])
def test_nine_tenths_of_evicted_buffers_leave_the_process(name: str, share: float) -> None:
    measured = trial(name)
    assert measured["filled"] >= 150_000_000
    assert measured["evicted"] >= 150_000_000 * share
    assert measured["left"] >= 0.9 * measured["evicted"]


@pytest.mark.parametrize(
    ("name", "share"), [("freed-small", 1.0), ("freed-small-most", 0.8), ("freed-small-half", 0.5)]
)
def test_nine_tenths_of_evicted_values_of_a_kilobyte_leave_the_process(name: str, share: float) -> None:
    # The exact share, from smaps, after the trim: of all that filling the cache took, keys, entries and table included.
    measured = trial(name)
    assert measured["filled"] >= 150_000_000
    assert measured["left_exactly"] >= 0.9 * share * measured["filled"]


def test_what_left_is_what_the_steps_say() -> None:
    measured = trial("freed-buffers")
    assert abs(sum(measured["steps"].values()) - measured["left"]) <= 4 * MIB


def test_fragmented_small_objects_do_not_come_back() -> None:
    measured = trial("fragmented")
    assert measured["before"] > 150 * MIB
    assert measured["left"] < 0.05 * measured["before"]  # why there is such a thing as `irreclaimable`


def test_watching_costs_less_than_a_hundredth_of_the_core() -> None:
    assert trial("idle")["share_of_a_core"] < 0.01


def test_a_real_group_of_ours_alone_is_measured_and_its_live_limit_followed(group: Path) -> None:
    measured = trial("live", str(group / "memory.limit_in_bytes"), group=group)
    assert ("cgroup v1 working set", "cgroup v1") == (measured["used_source"], measured["source"])
    assert [200 * MIB, 200 * MIB, 96 * MIB] == measured["limits"]
    assert abs(measured["used"] - measured["own"]) < 40 * MIB  # file pages of the interpreter count in the group


@pytest.mark.parametrize(("name", "is_told"), [("ladder-with-cache", False), ("ladder-without", True)])
def test_a_leak_in_a_real_group_climbs_the_ladder_and_nobody_is_killed(group: Path, name: str, is_told: bool) -> None:
    measured = trial(name, group=group)
    assert {"high", "emergency"} <= set(measured["levels"])
    assert (200 * MIB, "cgroup v1") == (measured["limit"], measured["limit_source"])
    assert (0, 0) == (measured["ballast"], measured["l1"])
    assert measured["reclaims"] >= 2
    assert measured["irreclaimable"] or not is_told
    assert measured["ratio_after"] < 0.7
    killed = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    assert "0" == killed.get("oom_kill", "0")
