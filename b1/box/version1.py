"""A box of control groups version 1: one folder in each hierarchy, below our own group.

Swap is limited together with memory (`memsw`), which has to be written second, and is missing on kernels without swap
accounting.
"""

from __future__ import annotations

from collections.abc import Mapping
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

NEEDED = ("memory", "cpu")
_NANOSECOND = 1e-9


class Version1:
    """A made box. Made by `make`.

    Args:
        folders: by controller; two may be the same folder.
    """

    mechanism = "cgroup v1"

    def __init__(self, folders: Mapping[str, Path], notes: list[str]) -> None:
        self.notes = notes
        self._folders = folders
        self._memory = folders["memory"]
        self._cpu = folders["cpu"]

    def __repr__(self) -> str:
        return f"<Version1 {self._memory}>"

    @classmethod
    def make(cls, root: Path, limits: Limits, *, pid: int) -> Version1:
        """Make the groups and set their limits.

        Raises:
            Unavailable: there are none, or they may not be written.
        """
        found = {name: mount for mount in mounts(root) if mount.version == 1 for name in mount.controllers}
        missing = [name for name in NEEDED if name not in found]
        if missing:
            raise Unavailable(f"no hierarchy with {' and '.join(missing)}")
        folders: dict[str, Path] = {}
        notes: list[str] = []
        try:
            for name in (*NEEDED, "cpuacct"):
                if name in found:
                    folders[name] = _make_below(root, found[name], name, pid, notes)
            notes += _set(folders, limits)
        except Unavailable:
            for folder in folders.values():
                remove_folder(folder)
            raise
        return cls(folders, notes)

    def entries(self) -> list[Path]:
        return [folder / "cgroup.procs" for folder in dict.fromkeys(self._folders.values())]

    def sample(self) -> Sample:
        stat = read_table(self._memory / "memory.stat")
        used = read_number(self._memory / "memory.usage_in_bytes") or 0
        inactive = stat.get("total_inactive_file", 0)
        return Sample(max(0, used - inactive), stat.get("total_rss", 0), stat.get("total_swap", 0))

    def usage(self) -> Usage:
        cpu = read_table(self._cpu / "cpu.stat")
        spent = read_number(self._folders.get("cpuacct", self._cpu) / "cpuacct.usage")
        throttled = cpu.get("throttled_time")
        peak = read_number(self._memory / "memory.max_usage_in_bytes")
        return Usage(
            peak_bytes=peak,
            oom_kills=read_table(self._memory / "memory.oom_control").get("oom_kill"),
            limit_hits=self._limit_hits(peak),
            cpu_s=None if spent is None else round(spent * _NANOSECOND, 3),
            periods=cpu.get("nr_periods"),
            throttled_periods=cpu.get("nr_throttled"),
            throttled_s=None if throttled is None else round(throttled * _NANOSECOND, 3),
        )

    def _limit_hits(self, peak_bytes: int | None) -> int | None:
        # Newer kernels have the file and no longer count: zero at the limit itself means that nobody knows.
        hits = read_number(self._memory / "memory.failcnt")
        limit_bytes = read_number(self._memory / "memory.limit_in_bytes")
        is_met = peak_bytes is not None and limit_bytes is not None and peak_bytes >= limit_bytes
        return None if hits == 0 and is_met else hits

    def pids(self) -> set[int]:
        return read_pids(self._memory / "cgroup.procs")

    def close(self) -> int:
        killed = kill_all(self._memory / "cgroup.procs")
        for folder in dict.fromkeys(self._folders.values()):
            if not remove_folder(folder):
                self.notes.append(f"{folder} could not be removed")
        return killed


def _make_below(root: Path, mount: Mount, controller: str, pid: int, notes: list[str]) -> Path:
    parent = own_group(root, mount, controller)
    for left in remove_stale(root, parent):
        sentence = f"an earlier box still runs in {left}; end its processes"
        if sentence not in notes:
            notes.append(sentence)
    return make_folder(parent, box_name(root, pid))


def _set(folders: Mapping[str, Path], limits: Limits) -> list[str]:
    memory = folders["memory"]
    set_limits(memory, [("memory.limit_in_bytes", limits.memory_bytes)])
    quota_us = int(limits.cpus * CPU_PERIOD_US)
    set_limits(folders["cpu"], [("cpu.cfs_period_us", CPU_PERIOD_US), ("cpu.cfs_quota_us", quota_us)])
    try:
        set_limits(memory, [("memory.memsw.limit_in_bytes", limits.memory_bytes + limits.swap_bytes)])
    except Unavailable as refused:
        return [f"swap is not limited: {refused}"]
    if limits.swap_bytes == 0:
        try:
            set_limits(memory, [("memory.swappiness", 0)])
        except Unavailable:
            pass  # the sum of memory and swap is limited already
    return []
