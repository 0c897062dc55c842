"""What box is this: memory limit with its source, cores, file descriptors, platform.

Reads files of the kernel and nothing of the environment's wishes. On a real App Service B1 the control group says
"unlimited" although the box has 1.81 GiB: that is why a limit carries its source, and the machine's memory counts too.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What a platform waits between SIGTERM and SIGKILL where nothing else was configured: App Service, and docker stop.
_STOP_LIMIT_S = {"app-service": 5.0, "container": 10.0}

# cgroup v1 writes "no limit" as a page-rounded number just below 2^63; anything from 2^62 up means none.
UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """An upper bound in bytes and where it was read."""

    limit_bytes: int
    source: str


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
    )


def memory_limit(root: Path, total_bytes: int) -> MemoryLimit:
    """Return the least limit above this process; the machine's memory when no control group limits it."""
    found = [MemoryLimit(total_bytes, "machine")]
    for folder, name, label in _memory_files(root):
        limit = _read_limit(folder / name)
        if limit is not None:
            found.append(MemoryLimit(limit, label))
    return min(found, key=lambda candidate: candidate.limit_bytes)


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


def _memory_files(root: Path) -> Iterator[tuple[Path, str, str]]:
    for folder in _group_folders(root, "", "sys/fs/cgroup"):
        yield folder, "memory.max", "cgroup v2"
    for folder in _group_folders(root, "memory", "sys/fs/cgroup/memory"):
        yield folder, "memory.limit_in_bytes", "cgroup v1"


def _group_folders(root: Path, controller: str, mount: str) -> Iterator[Path]:
    """Yield the mount's root, our own group's folder and every folder between them.

    Inside a container the path in /proc/self/cgroup may be the host's and not exist below the mount; then the mount's
    root is our group.
    """
    top = root / mount
    yield top
    folder = top
    for part in _own_group(root, controller).strip("/").split("/"):
        if part in ("", ".", ".."):
            continue
        folder = folder / part
        if folder.is_dir():
            yield folder


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
