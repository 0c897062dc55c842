"""A box of control groups version 2: one folder, in the nearest group above us that may have children with limits.

A group that holds processes cannot pass controllers on. So the box is a sibling of ours below a delegated ancestor; only
where we are alone in our group (a scope made for us) do we step aside into a leaf and use the group itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from b1.box.groups import (
    CPU_PERIOD_US,
    Mount,
    Unavailable,
    box_name,
    kill_all,
    make_folder,
    mounts,
    own_group,
    read_number,
    read_pids,
    read_table,
    remove_folder,
    remove_stale,
    set_limits,
)
from b1.box.limits import Limits
from b1.box.report import Sample, Usage

NEEDED = frozenset({"memory", "cpu"})
_ENABLE, _DISABLE = "+memory +cpu", "-memory -cpu"
_MICROSECOND = 1e-6


class Version2:
    """A made box. Made by `make`.

    Args:
        left: our own group, when we stepped aside from it into `leaf`.
    """

    mechanism = "cgroup v2"

    def __init__(
        self, folder: Path, notes: list[str], *, pid: int, left: Path | None = None, leaf: Path | None = None
    ) -> None:
        self.notes = notes
        self._folder = folder
        self._pid = pid
        self._left = left
        self._leaf = leaf

    def __repr__(self) -> str:
        return f"<Version2 {self._folder}>"

    @classmethod
    def make(cls, root: Path, limits: Limits, *, pid: int) -> Version2:
        """Make the group and set its limits.

        Raises:
            Unavailable: no group above us may be used.
        """
        mount = next((mount for mount in mounts(root) if mount.version == 2), None)
        if mount is None:
            raise Unavailable("it is not mounted")
        reasons = []
        for parent in _upwards(own_group(root, mount, ""), mount.point):
            try:
                return cls._make_in(root, mount, parent, limits, pid)
            except Unavailable as refused:
                reasons.append(f"{parent}: {refused}")
        raise Unavailable("; ".join(reasons))

    @classmethod
    def _make_in(cls, root: Path, mount: Mount, parent: Path, limits: Limits, pid: int) -> Version2:
        missing = NEEDED - _words(parent / "cgroup.controllers")
        if missing:
            raise Unavailable(f"has no {' and '.join(sorted(missing))} controller")
        if not (os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)):
            raise Unavailable("is not ours to write")
        notes = [f"an earlier box still runs in {left}; end its processes" for left in remove_stale(root, parent)]
        leaf = _step_aside(root, mount, parent, pid)
        try:
            folder = make_folder(parent, box_name(root, pid))
            box = cls(folder, notes, pid=pid, left=parent if leaf else None, leaf=leaf)
        except Unavailable:
            _step_back(parent, leaf, pid)
            raise
        try:
            notes += _set(folder, limits)
        except Unavailable:
            box.close()
            raise
        return box

    def entries(self) -> list[Path]:
        return [self._folder / "cgroup.procs"]

    def sample(self) -> Sample:
        stat = read_table(self._folder / "memory.stat")
        used = read_number(self._folder / "memory.current") or 0
        swap = read_number(self._folder / "memory.swap.current") or 0
        return Sample(max(0, used - stat.get("inactive_file", 0)), stat.get("anon", 0), swap)

    def usage(self) -> Usage:
        cpu = read_table(self._folder / "cpu.stat")
        events = read_table(self._folder / "memory.events")
        spent, throttled = cpu.get("usage_usec"), cpu.get("throttled_usec")
        return Usage(
            peak_bytes=read_number(self._folder / "memory.peak"),
            oom_kills=events.get("oom_kill"),
            limit_hits=events.get("max"),
            cpu_s=None if spent is None else round(spent * _MICROSECOND, 3),
            periods=cpu.get("nr_periods"),
            throttled_periods=cpu.get("nr_throttled"),
            throttled_s=None if throttled is None else round(throttled * _MICROSECOND, 3),
        )

    def pids(self) -> set[int]:
        return read_pids(self._folder / "cgroup.procs")

    def close(self) -> int:
        killed = kill_all(self._folder / "cgroup.procs")
        if not remove_folder(self._folder):
            self.notes.append(f"{self._folder} could not be removed")
        if self._left is not None:
            _step_back(self._left, self._leaf, self._pid)
        return killed


def _upwards(folder: Path, top: Path) -> Iterator[Path]:
    yield folder
    while folder != top and top in folder.parents:
        folder = folder.parent
        yield folder


def _step_aside(root: Path, mount: Mount, parent: Path, pid: int) -> Path | None:
    """Let `parent` pass its controllers on; return the leaf that we moved into, if that was needed.

    Raises:
        Unavailable: others are in it, or the kernel refused.
    """
    if _words(parent / "cgroup.subtree_control") >= NEEDED:
        return None
    inhabitants = read_pids(parent / "cgroup.procs")
    is_true_root = parent == mount.point and not (parent / "cgroup.type").exists()
    if is_true_root or not inhabitants:
        set_limits(parent, [("cgroup.subtree_control", _ENABLE)])
        return None
    if inhabitants != {pid}:
        raise Unavailable("holds other processes, so it cannot have children with limits")
    leaf = make_folder(parent, f"{box_name(root, pid)}-self")
    try:
        set_limits(leaf, [("cgroup.procs", pid)])
        set_limits(parent, [("cgroup.subtree_control", _ENABLE)])
    except Unavailable:
        _step_back(parent, leaf, pid)
        raise
    return leaf


def _step_back(parent: Path, leaf: Path | None, pid: int) -> None:
    if leaf is None:
        return
    try:
        set_limits(parent, [("cgroup.subtree_control", _DISABLE)])
        set_limits(parent, [("cgroup.procs", pid)])
    except Unavailable:
        return  # the scope was made for us and goes with us
    remove_folder(leaf)


def _set(folder: Path, limits: Limits) -> list[str]:
    quota_us = int(limits.cpus * CPU_PERIOD_US)
    set_limits(folder, [("memory.max", limits.memory_bytes), ("cpu.max", f"{quota_us} {CPU_PERIOD_US}")])
    try:
        set_limits(folder, [("memory.swap.max", limits.swap_bytes)])
    except Unavailable as refused:
        return [f"swap is not limited: {refused}"]
    return []


def _words(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text().split())
    except OSError:
        return frozenset()
