"""What box is this: memory limit with its source, cores, file descriptors, platform.

Reads files of the kernel and nothing of the environment's wishes. On a real App Service B1 the control group says
"unlimited" although the box has 1.81 GiB: that is why a limit carries its source, and the machine's memory counts too.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What a platform waits between SIGTERM and SIGKILL where nothing else was configured: App Service, and docker stop.
_STOP_LIMIT_S = {"app-service": 5.0, "container": 10.0}

# cgroup v1 writes "no limit" as a page-rounded number just below 2^63; anything from 2^62 up means none.
UNLIMITED = 1 << 62

# (version, controller in /proc/self/cgroup, usual mount, files of which a group that counts memory has at least one)
_MEMORY_HIERARCHIES = (
    (2, "", "sys/fs/cgroup", ("memory.max", "memory.current")),
    (1, "memory", "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """An upper bound in bytes and where it was read."""

    limit_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group that this process's memory is charged to; `version` is 1 or 2."""

    folder: Path
    version: int

    @property
    def label(self) -> str:
        """Return how the source of a limit is named: ``cgroup v1`` or ``cgroup v2``."""
        return f"cgroup v{self.version}"


@dataclass(frozen=True, slots=True)
class Host:
    """The facts that the plan is derived from.

    Attributes:
        memory: the least of every control group limit above us and the machine's memory.
        total_bytes: the machine's physical memory.
        cpus: cores this process may use, by affinity and CPU quota; 1.0 on a B1.
        open_files: soft limit of file descriptors.
        platform: ``app-service``, ``container`` or ``plain``.
        site_name: the App Service site's name, if there is one.
        stop_limit_s: how long the platform waits after SIGTERM before it kills; None where nobody is known to.
        page_bytes: the kernel's page size.
        has_dev_shm: a memory-backed folder for locks and heartbeats exists.
        hostname: the name under which App Service is asked for this site, if there is one.
    """

    memory: MemoryLimit
    total_bytes: int
    cpus: float
    open_files: int
    platform: str
    site_name: str | None
    stop_limit_s: float | None
    page_bytes: int
    has_dev_shm: bool
    hostname: str | None = None


def read_host(environ: Mapping[str, str], *, root: Path = Path("/")) -> Host:
    """Look at the box once.

    Args:
        environ: only the platform's own variables are looked at (``WEBSITE_*``).
        root: a fake file tree for tests.
    """
    total = _total_memory(root)
    platform = _platform(environ, root)
    return Host(
        memory=memory_limit(root, total),
        total_bytes=total,
        cpus=cpu_limit(root),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        platform=platform,
        site_name=environ.get("WEBSITE_SITE_NAME"),
        stop_limit_s=_stop_limit(environ, platform),
        page_bytes=resource.getpagesize(),
        has_dev_shm=(root / "dev/shm").is_dir(),
        hostname=environ.get("WEBSITE_HOSTNAME"),
    )


def memory_limit(root: Path, total_bytes: int) -> MemoryLimit:
    """Return the least limit above this process; the machine's memory when no control group limits it."""
    found = [MemoryLimit(total_bytes, "machine")]
    for group in memory_groups(root):
        limit = group_limit(group)
        if limit is not None:
            found.append(MemoryLimit(limit, group.label))
    return min(found, key=lambda candidate: candidate.limit_bytes)


def memory_groups(root: Path) -> list[MemoryGroup]:
    """Return the control groups that count our memory, from the highest that can be seen to our own, which is last.

    A machine may mount both versions; only one of them counts memory, and groups without memory files are left out.
    """
    mounts = _group_mounts(root)
    found: list[MemoryGroup] = []
    for version, controller, default, files in _MEMORY_HIERARCHIES:
        known = mounts[controller] or {default: "/"}
        mount = default if default in known else next(iter(known))
        folders = _group_folders(root, controller, mount, known[mount])
        found += [MemoryGroup(folder, version) for folder in folders if any((folder / name).exists() for name in files)]
    return found


def group_limit(group: MemoryGroup) -> int | None:
    """Return the least limit that the group's files state, in bytes; None when they state none.

    Version 1 says in ``memory.stat`` what the groups above allow, also those that a container cannot see. Above
    version 2's ``memory.high`` the kernel stalls whoever allocates, so it limits as well.
    """
    if group.version == 2:
        stated = [_read_limit(group.folder / name) for name in ("memory.max", "memory.high")]
    else:
        above = read_counters(group.folder / "memory.stat").get("hierarchical_memory_limit", 0)
        stated = [_read_limit(group.folder / "memory.limit_in_bytes"), above if 0 < above < UNLIMITED else None]
    return min((limit for limit in stated if limit is not None), default=None)


def read_counters(path: Path) -> dict[str, int]:
    """Read lines such as ``inactive_file 4096`` or ``MemTotal: 12 kB`` (as bytes); lines of other shapes are left out.

    Returns nothing when there is no readable file: absence is normal for most of what we look at.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    counters = {}
    for line in lines:
        words = line.split()
        if len(words) in (2, 3) and words[1].isdigit():
            counters[words[0].rstrip(":")] = int(words[1]) * (1024 if words[-1] == "kB" else 1)
    return counters


def read_number(path: Path) -> int | None:
    """Read a file that holds one number and nothing else; None when it does not."""
    words = _read_words(path)
    return int(words[0]) if len(words) == 1 and words[0].isdigit() else None


def cpu_limit(root: Path) -> float:
    """Return cores by affinity, or less when a CPU quota says so."""
    allowed = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    for folder in _group_folders(root, "cpu", "sys/fs/cgroup"):
        quota = _read_words(folder / "cpu.max")
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
            allowed = min(allowed, int(quota[0]) / int(quota[1]))
    for folder in _group_folders(root, "cpu", "sys/fs/cgroup/cpu"):
        quota_us, period_us = (
            _read_words(folder / "cpu.cfs_quota_us"),
            _read_words(folder / "cpu.cfs_period_us"),
        )
        if quota_us and period_us and quota_us[0].isdigit() and int(period_us[0]) > 0:
            allowed = min(allowed, int(quota_us[0]) / int(period_us[0]))
    return allowed


def _group_folders(root: Path, controller: str, mount: str, mount_root: str = "/") -> Iterator[Path]:
    """Yield the mount's root, our own group's folder and every folder between them.

    Inside a container the path in /proc/self/cgroup may be the host's: then it begins with the part of the hierarchy
    that is mounted, or does not exist below the mount, and the mount's root is our group.
    """
    top = root / mount
    yield top
    path = _own_group(root, controller)
    if mount_root != "/":
        path = path[len(mount_root) :] if f"{path}/".startswith(f"{mount_root}/") else ""
    folder = top
    for part in path.strip("/").split("/"):
        if part in ("", ".", ".."):
            continue
        folder = folder / part
        if folder.is_dir():
            yield folder


def _group_mounts(root: Path) -> dict[str, dict[str, str]]:
    """Return where the memory hierarchies are mounted: for each controller ("" is version 2), the part at each folder.

    A later mount on the same folder hides the earlier one, as a container's own group hides the machine's.
    """
    mounts: dict[str, dict[str, str]] = {"": {}, "memory": {}}
    try:
        lines = (root / "proc/self/mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return mounts
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, described = before.split(), after.split()
        if len(fields) < 5 or len(described) < 3:
            continue
        mount, part = _unescape(fields[4]).lstrip("/"), _unescape(fields[3])
        if described[0] == "cgroup2":
            mounts[""][mount] = part
        elif described[0] == "cgroup" and "memory" in described[2].split(","):
            mounts["memory"][mount] = part
    return mounts


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _own_group(root: Path, controller: str) -> str:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(":", 2)
        if len(fields) == 3 and controller in fields[1].split(","):
            return fields[2]
    return ""


def _read_limit(path: Path) -> int | None:
    words = _read_words(path)
    if len(words) != 1 or not words[0].isdigit():
        return None
    limit = int(words[0])
    return limit if 0 < limit < UNLIMITED else None


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return []


def _total_memory(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemTotal":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or an unreadable /proc: ask the C library below
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _platform(environ: Mapping[str, str], root: Path) -> str:
    if "WEBSITE_SITE_NAME" in environ and "WEBSITE_INSTANCE_ID" in environ:
        return "app-service"
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return "container"
    return "plain"


def _stop_limit(environ: Mapping[str, str], platform: str) -> float | None:
    configured = environ.get("WEBSITES_CONTAINER_STOP_TIME_LIMIT", "")
    if configured.isdigit():
        return float(configured)
    return _STOP_LIMIT_S.get(platform)
