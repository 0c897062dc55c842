"""Our control group: what is in it, and whether it holds anybody else.

`usage` counts page cache that the kernel drops without asking, so the working set is usage less inactive file pages. A
group that is ours alone is the best witness of all: it counts socket buffers and shared memory, which no process shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from b1.governor.memory import Family
from b1.host import MemoryGroup, read_counters, read_number

# A group with more processes or folders than this is not ours alone; nobody has to read a machine's whole tree to know.
_PROCESSES_LIMIT = 256
_FOLDERS_LIMIT = 64


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """What a group's memory is made of, in bytes. `active_file_bytes` are part of the working set."""

    working_set_bytes: int
    active_file_bytes: int
    swapped_bytes: int


def group_usage(group: MemoryGroup) -> GroupUsage | None:
    """Read what a group holds; None when its files cannot be read."""
    if group.version == 2:
        used, prefix = read_number(group.folder / "memory.current"), ""
    else:
        used, prefix = read_number(group.folder / "memory.usage_in_bytes"), "total_"
    if used is None:
        return None
    counters = read_counters(group.folder / "memory.stat")
    swapped = read_number(group.folder / "memory.swap.current") if group.version == 2 else counters.get("total_swap")
    return GroupUsage(
        working_set_bytes=max(0, used - counters.get(f"{prefix}inactive_file", 0)),
        active_file_bytes=counters.get(f"{prefix}active_file", 0),
        swapped_bytes=swapped or 0,
    )


def is_ours_alone(group: MemoryGroup, family: Family) -> bool:
    """Say whether every process of the group and of the groups below is one of us, or started us."""
    found: set[str] = set()
    for number, folder in enumerate(_folders(group.folder)):
        try:
            found.update((folder / "cgroup.procs").read_text().split())
        except OSError:
            return False  # what cannot be seen may be anybody
        if number >= _FOLDERS_LIMIT or len(found) > _PROCESSES_LIMIT:
            return False
    # A process of another pid namespace reads as 0, which is nobody of ours.
    ours = {str(pid) for pid in family.members | family.ancestors}
    return str(family.pid) in found and found <= ours


def _folders(top: Path) -> Iterator[Path]:
    yield top
    try:
        below = [Path(entry.path) for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for folder in below:
        yield from _folders(folder)
