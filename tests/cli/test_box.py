"""`b1 box` as a command, on the real kernel where its control groups can be written."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from b1.box import Limits
from b1.box.groups import Unavailable, mounts, own_group
from b1.box.report import Report
from b1.box.running import make_group
from b1.cli import box
from b1.errors import ConfigurationError
from b1.units import MIB

LIMITS = Limits(64 * MIB, 0, 0.5)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    box.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_in_the_scope_is_the_same_one() -> None:
    given = arguments("--memory", "100m", "--cpus", "0.5", "--json", "r.json", "--", "sh", "-c", "exit 3")
    again = arguments(*box.scope_words(given, given.command[1:])[4:])
    assert again.in_scope
    assert {**vars(again), "in_scope": False} == vars(given)


def test_a_command_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match="no command"):
        box.run(arguments("--"))


def test_no_mechanism_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> Report:
        raise Unavailable("cgroup v2: is not ours to write")

    monkeypatch.setattr(box, "run_in_box", unavailable)
    monkeypatch.setattr(box, "scope_command", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match=r"is not ours to write.*docker run --memory"):
        box.run(arguments("--", "true"))


RUN = "import sys; from tests.cli.test_box import main; sys.exit(main(sys.argv[1:]))"
ROOT = Path(__file__).parents[2]
Boxed = Callable[..., "subprocess.CompletedProcess[str]"]


def main(words: list[str]) -> int:
    return box.run(arguments(*words))


@pytest.fixture(scope="module")
def _usable() -> None:
    try:
        make_group(Path("/"), LIMITS, pid=os.getpid()).close()
    except Unavailable as reason:
        pytest.skip(f"this machine's control groups cannot be written: {reason}")


@pytest.fixture
def boxed(_usable: None, tmp_path: Path) -> Iterator[Boxed]:
    """Run `b1 box` with a report in report.json; afterwards no group of this test may be left."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, "--json", str(tmp_path / "report.json"), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    before = groups()
    yield run
    assert groups() - before == set()


def groups() -> set[Path]:
    found = set()
    for mount in mounts(Path("/")):
        for controller in mount.controllers or {""}:
            found |= set(own_group(Path("/"), mount, controller).glob("b1-box-*"))
    return found


def report_in(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.real
def test_output_and_exit_status_are_the_commands(boxed: Boxed, tmp_path: Path) -> None:
    done = boxed("--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert report_in(tmp_path)["exitStatus"] == 3


@pytest.mark.real
def test_the_plan_inside_sees_the_boxes_limit(boxed: Boxed) -> None:
    script = "from pathlib import Path; from b1.host import *; print(memory_limit(Path('/'), 1 << 50).limit_bytes, "
    done = boxed("--memory", "123MiB", "--cpus", "0.5", "--", sys.executable, "-c", script + "cpu_limit(Path('/')))")
    assert done.stdout.split() == [str(123 * MIB), "0.5"]


@pytest.mark.real
def test_an_out_of_memory_kill_is_137_and_in_the_report(boxed: Boxed, tmp_path: Path) -> None:
    eat = "held = []\nwhile True: held.append(bytearray(1 << 20))"
    done = boxed("--memory", "48MiB", "--", sys.executable, "-c", eat)
    report = report_in(tmp_path)
    assert (done.returncode, report["memory"]["oomKills"]) == (137, 1)
    assert 32 * MIB < report["memory"]["peakBytes"] <= 48 * MIB


@pytest.mark.real
def test_a_kill_of_a_child_is_counted_though_the_command_ends_well(boxed: Boxed, tmp_path: Path) -> None:
    eat = f"{sys.executable} -c 'x = bytearray(1 << 27)'; exit 0"
    done = boxed("--memory", "48MiB", "--", "sh", "-c", eat)
    assert (done.returncode, report_in(tmp_path)["memory"]["oomKills"]) == (0, 1)


@pytest.mark.real
def test_the_quota_is_enforced_and_its_throttling_reported(boxed: Boxed, tmp_path: Path) -> None:
    burn = "import time\nend = time.process_time() + 0.15\nwhile time.process_time() < end: pass"
    boxed("--cpus", "0.1", "--", sys.executable, "-c", burn)
    report = report_in(tmp_path)
    assert report["cpu"]["seconds"] <= 0.1 * (report["wallSeconds"] + 0.3)  # a period's quota may be spent at each end
    assert report["cpu"]["throttledPeriods"] >= 1
    assert report["cpu"]["throttledSeconds"] > 0


@pytest.mark.real
def test_the_working_set_is_sampled(boxed: Boxed, tmp_path: Path) -> None:
    boxed("--", sys.executable, "-c", "import time\nx = bytearray(40 << 20)\ntime.sleep(0.5)")
    memory = report_in(tmp_path)["memory"]
    assert memory["peakAnonymousBytes"] >= 40 * MIB
    assert memory["peakWorkingSetBytes"] >= memory["peakAnonymousBytes"]


@pytest.mark.real
def test_what_the_command_leaves_behind_is_killed(boxed: Boxed, tmp_path: Path) -> None:
    boxed("--", "sh", "-c", "setsid sleep 300 & setsid sleep 300 & exit 0")
    assert report_in(tmp_path)["leftoversKilled"] == 2


@pytest.mark.real
@pytest.mark.parametrize(("command", "status"), [("no-such-command", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_executed_ends_as_in_a_shell(boxed: Boxed, command: str, status: int) -> None:
    done = boxed("--", command)
    assert (done.returncode, done.stderr.startswith(f"b1 box: {command}: ")) == (status, True)


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def _start(*command: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", RUN, "--", *command]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.real
@pytest.mark.usefixtures("_usable")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_and_the_command_decides(number: signal.Signals) -> None:
    script = f"trap 'exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = _start("sh", "-c", script)
    _ready(process)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, "exit status 9" in said) == (9, True)


@pytest.mark.real
@pytest.mark.usefixtures("_usable")
def test_a_killed_box_takes_its_command_along_and_the_next_one_clears_up() -> None:
    process = _start("sh", "-c", "echo ready; exec sleep 300")
    _ready(process)
    assert left_by(process.pid)
    process.kill()
    process.communicate(timeout=20)
    end_s = time.monotonic() + 10
    while left_by(process.pid) and time.monotonic() < end_s:
        make_group(Path("/"), LIMITS, pid=os.getpid()).close()
    assert left_by(process.pid) == set()


def left_by(pid: int) -> set[Path]:
    return {folder for folder in groups() if folder.name.startswith(f"b1-box-{pid}-")}
