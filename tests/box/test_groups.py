"""Both versions of control groups on fake trees: where the box is made, what is written, what is read, what is left."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from b1.box import Limits
from b1.box.groups import Unavailable, box_name, mounts, own_group, remove_stale
from b1.box.report import Sample, Usage
from b1.box.running import make_group
from b1.units import MIB

LIMITS = Limits(64 * MIB, 0, 0.5)
PID = 4711


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root without mounts; folders can be removed as in the kernel's file system, where files do not count."""

    def rmdir(folder: Path) -> None:
        if not folder.exists():
            raise FileNotFoundError(errno.ENOENT, "gone")
        if any(entry.is_dir() for entry in folder.iterdir()):
            raise OSError(errno.EBUSY, "it has children")
        procs = folder / "cgroup.procs"
        if procs.exists() and procs.read_text().split():
            raise OSError(errno.EBUSY, "it is inhabited")
        shutil.rmtree(folder)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    return tmp_path


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mount2(root: Path, group: str, base: str = "/") -> Path:
    write(root / "proc/self/mountinfo", f"30 24 0:26 {base} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
    write(root / "proc/self/cgroup", f"0::{group}\n")
    return root / "sys/fs/cgroup"


def group2(folder: Path, *, passes_on: str = "", procs: str = "", controllers: str = "cpu memory pids") -> Path:
    write(folder / "cgroup.controllers", controllers)
    write(folder / "cgroup.subtree_control", passes_on)
    write(folder / "cgroup.procs", procs)
    write(folder / "cgroup.type", "domain")
    return folder


def test_version_2_makes_a_sibling_below_the_nearest_group_that_passes_controllers_on(tree: Path) -> None:
    top = mount2(tree, "/user.slice/app.slice/shell.scope")
    user = group2(top / "user.slice", passes_on="cpu memory")
    group2(user / "app.slice", passes_on="cpu memory pids", procs="")
    group2(user / "app.slice/shell.scope", procs="17\n18\n")
    made = make_group(tree, LIMITS, pid=PID)
    (entry,) = made.entries()
    folder = entry.parent
    assert (made.mechanism, folder.parent, folder.name) == ("cgroup v2", user / "app.slice", f"b1-box-{PID}-0")
    assert {name: (folder / name).read_text() for name in ("memory.max", "memory.swap.max", "cpu.max")} == {
        "memory.max": f"{64 * MIB}\n", "memory.swap.max": "0\n", "cpu.max": "50000 100000\n",
    }  # fmt: skip
    made.close()
    assert not folder.exists()


def test_version_2_steps_aside_where_it_is_alone_and_back_again(tree: Path) -> None:
    own = group2(mount2(tree, "/run-1.scope") / "run-1.scope", procs=f"{PID}\n")
    made = make_group(tree, LIMITS, pid=PID)
    assert (own / f"b1-box-{PID}-0-self/cgroup.procs").read_text() == f"{PID}\n"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +cpu\n"
    write(own / f"b1-box-{PID}-0-self/cgroup.procs")  # the kernel moves the process with the next write
    made.close()
    assert (own / "cgroup.subtree_control").read_text() == "-memory -cpu\n"
    assert (own / "cgroup.procs").read_text() == f"{PID}\n"
    assert [entry for entry in own.iterdir() if entry.is_dir()] == []


def test_version_2_uses_the_true_root_though_processes_are_in_it(tree: Path) -> None:
    top = group2(mount2(tree, "/"), procs="1\n2\n")
    (top / "cgroup.type").unlink()
    made = make_group(tree, LIMITS, pid=PID)
    assert made.entries() == [top / f"b1-box-{PID}-0/cgroup.procs"]


@pytest.mark.parametrize(
    ("controllers", "procs", "reason"),
    [("pids", "", "has no cpu and memory controller"), ("cpu memory", "1\n2\n", "holds other processes")],
)
def test_version_2_says_why_it_cannot(tree: Path, controllers: str, procs: str, reason: str) -> None:
    group2(mount2(tree, "/"), controllers=controllers, procs=procs)
    with pytest.raises(Unavailable, match=reason):
        make_group(tree, LIMITS, pid=PID)


def test_version_2_reads_what_the_kernel_counts(tree: Path) -> None:
    group2(mount2(tree, "/"), passes_on="cpu memory")
    made = make_group(tree, LIMITS, pid=PID)
    folder = made.entries()[0].parent
    write(folder / "memory.current", "1000\n")
    write(folder / "memory.swap.current", "7\n")
    write(folder / "memory.peak", "2000\n")
    write(folder / "memory.stat", "anon 600\ninactive_file 300\n")
    write(folder / "memory.events", "low 0\nmax 5\noom 1\noom_kill 1\n")
    write(folder / "cpu.stat", "usage_usec 1500000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 250000\n")
    assert made.sample() == Sample(700, 600, 7)
    assert made.usage() == Usage(2000, 1, 5, 1.5, 10, 4, 0.25)


def test_version_2_without_swap_accounting_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group2(mount2(tree, "/"), passes_on="cpu memory")
    real = Path.write_text

    def refuse(path: Path, *given: str, **named: str) -> int:
        if path.name == "memory.swap.max":
            raise OSError(errno.EACCES, "Permission denied")
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", refuse)
    assert make_group(tree, LIMITS, pid=PID).notes == [
        "swap is not limited: memory.swap.max cannot be set (Permission denied)"
    ]


def mount1(root: Path, *, base: str = "/", group: str = "/job", cpu: str = "cpu,cpuacct") -> Path:
    lines = [
        f"31 30 0:27 {base} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        f"32 30 0:28 {base} /sys/fs/cgroup/{cpu} rw - cgroup cgroup rw,{cpu}",
    ]
    write(root / "proc/self/mountinfo", "\n".join(lines) + "\n")
    write(root / "proc/self/cgroup", f"5:memory:{group}\n4:{cpu}:{group}\n0::/\n")
    (root / "sys/fs/cgroup/memory/job").mkdir(parents=True)
    (root / f"sys/fs/cgroup/{cpu}/job").mkdir(parents=True)
    return root / "sys/fs/cgroup"


def test_version_1_limits_memory_and_swap_together_and_shares_a_combined_hierarchy(tree: Path) -> None:
    top = mount1(tree)
    made = make_group(tree, Limits(64 * MIB, 32 * MIB, 1.5), pid=PID)
    memory, cpu = top / f"memory/job/b1-box-{PID}-0", top / f"cpu,cpuacct/job/b1-box-{PID}-0"
    assert made.entries() == [memory / "cgroup.procs", cpu / "cgroup.procs"]
    assert (memory / "memory.limit_in_bytes").read_text() == f"{64 * MIB}\n"
    assert (memory / "memory.memsw.limit_in_bytes").read_text() == f"{96 * MIB}\n"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "150000\n"
    made.close()
    assert not memory.exists() and not cpu.exists()


def test_inside_a_container_the_mount_point_is_our_group(tree: Path) -> None:
    top = mount1(tree, base="/docker/abc", group="/docker/abc")
    (memory,) = [mount for mount in mounts(tree) if "memory" in mount.controllers]
    assert own_group(tree, memory, "memory") == top / "memory"
    write(tree / "proc/self/cgroup", "5:memory:/docker/abc/job\n")
    assert own_group(tree, memory, "memory") == top / "memory/job"
    write(tree / "proc/self/cgroup", "5:memory:/host/path/not/seen/here\n")
    assert own_group(tree, memory, "memory") == top / "memory"


def test_when_setting_a_limit_fails_nothing_is_left(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = mount1(tree)
    real = Path.write_text

    def refuse(path: Path, *given: str, **named: str) -> int:
        if path.name == "cpu.cfs_quota_us":
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(Unavailable, match=r"cpu\.cfs_quota_us"):
        make_group(tree, LIMITS, pid=PID)
    assert list(top.glob("*/job/b1-box-*")) == []


def test_without_any_control_group_each_mechanism_gives_its_reason(tree: Path) -> None:
    with pytest.raises(Unavailable, match=r"cgroup v2: it is not mounted; cgroup v1: no hierarchy with memory and cpu"):
        make_group(tree, LIMITS, pid=PID)


def test_empty_groups_of_dead_boxes_are_removed_and_inhabited_ones_named(tree: Path) -> None:
    write(tree / "proc/5/stat", "5 (b1 box) S " + " ".join(str(n) for n in range(4, 30)))
    alive = box_name(tree, 5)
    for name, procs in ((alive, ""), ("b1-box-6-100", ""), ("b1-box-5-1", ""), ("b1-box-7-1", "99\n"), ("other", "")):
        write(tree / "top" / name / "cgroup.procs", procs)
    assert remove_stale(tree, tree / "top") == ["b1-box-7-1"]
    assert {entry.name for entry in (tree / "top").iterdir()} == {alive, "b1-box-7-1", "other"}
