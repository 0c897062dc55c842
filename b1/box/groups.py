"""What both versions of control groups share: where they are mounted, which group is ours, small files, names, removal.

Everything takes the root of a file tree, so that tests can bring their own. A box's folder is named after the process
that made it, with its start time: a later run can tell a dead owner's folder from that of a process which got its number.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from b1.box.report import Sample, Usage

CPU_PERIOD_US = 100_000
EMPTY_S = 5.0
_NAME = re.compile(r"b1-box-(\d+)-(\d+)(-self)?")


class Unavailable(Exception):
    """This mechanism cannot be used here, and why."""


class Group(Protocol):
    """A made box: its limits are set, nobody is in it."""

    mechanism: str
    notes: list[str]

    def entries(self) -> list[Path]:
        """Return the files that a process writes 0 into to be inside."""
        ...

    def sample(self) -> Sample: ...

    def usage(self) -> Usage: ...

    def pids(self) -> set[int]:
        """Return who is inside."""
        ...

    def close(self) -> int:
        """Kill who is inside, remove the folders; return how many were killed."""
        ...


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted hierarchy. `base` is the group that the mount point shows; not ``/`` inside a container."""

    point: Path
    base: str
    version: int
    controllers: frozenset[str]


def mounts(root: Path) -> list[Mount]:
    """Return every mounted hierarchy of control groups, empty where there is none."""
    found = []
    for line in _lines(root / "proc/self/mountinfo"):
        left, separator, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if separator and len(fields) >= 5 and len(rest) >= 3 and rest[0] in ("cgroup", "cgroup2"):
            point = root / _unescaped(fields[4]).lstrip("/")
            options = frozenset(rest[2].split(",")) if rest[0] == "cgroup" else frozenset[str]()
            found.append(Mount(point, _unescaped(fields[3]), 1 if rest[0] == "cgroup" else 2, options))
    return found


def own_group(root: Path, mount: Mount, controller: str) -> Path:
    """Return our own group's folder below a mount; the mount point where our path is not visible."""
    for line in _lines(root / "proc/self/cgroup"):
        fields = line.split(":", 2)
        if len(fields) == 3 and controller in fields[1].split(","):
            path = fields[2]
            if mount.base != "/" and (path == mount.base or path.startswith(mount.base + "/")):
                path = path[len(mount.base) :]
            folder = mount.point / path.strip("/")
            return folder if ".." not in path.split("/") and folder.is_dir() else mount.point
    return mount.point


def set_limits(folder: Path, values: Iterable[tuple[str, object]]) -> None:
    """Write each file of a group.

    Raises:
        Unavailable: the kernel refused.
    """
    for name, value in values:
        try:
            (folder / name).write_text(f"{value}\n")
        except OSError as error:
            raise Unavailable(f"{name} cannot be set ({error.strerror})") from None


def make_folder(parent: Path, name: str) -> Path:
    """Make a group.

    Raises:
        Unavailable: not allowed here.
    """
    folder = parent / name
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Unavailable(f"no group can be made in {parent} ({error.strerror})") from None
    return folder


def box_name(root: Path, pid: int) -> str:
    """Return the name of the groups that a process makes."""
    return f"b1-box-{pid}-{_start_time(root, pid) or 0}"


def remove_stale(root: Path, parent: Path) -> list[str]:
    """Remove empty groups of boxes whose process is gone; return those that somebody is still in."""
    inhabited = []
    for folder in _children(parent):
        match = _NAME.fullmatch(folder.name)
        if match is None or _start_time(root, int(match[1])) == int(match[2]):
            continue
        if not remove_folder(folder, tries=1):
            inhabited.append(folder.name)
    return inhabited


def remove_folder(folder: Path, *, tries: int = 50) -> bool:
    """Remove a group; the kernel refuses for a moment after its last process died. Say whether it is gone."""
    for attempt in range(tries):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            if attempt + 1 < tries:
                time.sleep(0.02)
        else:
            return True
    return False


def kill_all(pids_file: Path) -> int:
    """Kill everybody in a group, again until nobody is left; return how many there were."""
    seen: set[int] = set()
    end_s = time.monotonic() + EMPTY_S
    while (found := read_pids(pids_file)) and time.monotonic() < end_s:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself
        seen |= found
        time.sleep(0.01)
    return len(seen)


def read_pids(pids_file: Path) -> set[int]:
    """Return the processes of a group."""
    return {int(line) for line in _lines(pids_file) if line.isdigit() and line != "0"}


def read_number(path: Path) -> int | None:
    """Return a file's one number."""
    lines = _lines(path)
    return int(lines[0]) if len(lines) == 1 and lines[0].isdigit() else None


def read_table(path: Path) -> dict[str, int]:
    """Return a file's lines of name and number."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _children(parent: Path) -> Iterator[Path]:
    try:
        yield from [entry for entry in parent.iterdir() if entry.name.startswith("b1-box-")]
    except OSError:
        return


def _start_time(root: Path, pid: int) -> int | None:
    # Field 22 of stat, counted after the name, which may contain anything but ends with the last parenthesis.
    text = "\n".join(_lines(root / "proc" / str(pid) / "stat"))
    fields = text.rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
