"""A server inside `b1 box`: started as a user would, its control group watched from outside, its report read at the end.

What the box holds is read from the kernel's own counters, five times a second; nobody asks the application.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring.processes import HERE, clean_environment

from b1.box.groups import Group, mounts
from b1.box.version1 import Version1
from b1.box.version2 import Version2
from b1.embedded import process
from b1.host import memory_groups

SAMPLE_S = 0.2
START_LIMIT_S = 40.0
STOP_LIMIT_S = 40.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the box held at one moment (wall time)."""

    at_s: float
    working_set_bytes: int
    oom_kills: int


@dataclass(slots=True)
class Boxed:
    """A running server and its box."""

    port: int
    pid: int
    folder: Path
    group: Group
    samples: list[Sample] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> str:
        """What the server wrote."""
        return (self.folder / "log").read_text(errors="replace")

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_S)

    def sample(self) -> Sample:
        """Take one sample."""
        one = Sample(time.time(), self.group.sample().working_set_bytes, self.group.usage().oom_kills or 0)
        self.samples.append(one)
        return one

    def endings(self) -> list[dict[str, Any]]:
        """Return what b1's master noted about workers that ended."""
        try:
            return list(json.loads((self.folder / "state/worker-endings.json").read_text()))
        except (OSError, ValueError):
            return []


@contextlib.contextmanager
def boxed(
    command: Sequence[str | Path], box: Sequence[str], environment: Mapping[str, str], *, ready: str = "/ready"
) -> Iterator[Boxed]:
    """Run a server in a box until the block ends; its `report` is there afterwards.

    Args:
        box: options of ``b1 box``.

    Raises:
        RuntimeError: it did not get ready; with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as name:
        folder, port = Path(name), process.free_port()
        report = folder / "report.json"
        words = [sys.executable, "-m", "b1", "box", *box, "--json", report, "--", *command]
        settings = {"HOST": "127.0.0.1", "PORT": str(port), "B1_STATE_DIR": str(folder / "state")}
        words = [str(word).replace("{port}", str(port)) for word in words]
        with (folder / "log").open("wb") as log:
            child = process.start(
                words,
                death_signal=signal.SIGTERM,
                own_group=True,
                cwd=HERE,
                env=clean_environment(settings | dict(environment)),
                output=log,
            )
        try:
            is_up = process.wait_until(
                lambda: child.poll() is not None or process.can_connect("127.0.0.1", port), limit_s=START_LIMIT_S
            )
            if not is_up or child.poll() is not None:
                raise RuntimeError(f"{words} did not start:\n{(folder / 'log').read_text(errors='replace')}")
            one = Boxed(port, child.pid, folder, _group_of(child.pid))
            yield one
            one.sample()
        finally:
            process.stop(child, signal.SIGTERM, patience_s=STOP_LIMIT_S)
        one.report = json.loads(report.read_text())


def _group_of(box_pid: int) -> Group:
    """Find the control group of a box's command, for reading."""
    inside = next(iter(_children(box_pid)))
    lines = [line.split(":", 2) for line in Path(f"/proc/{inside}/cgroup").read_text().splitlines()]
    for mount in mounts(Path("/")):
        wanted = "memory" if mount.version == 1 else ""
        if mount.version == 1 and "memory" not in mount.controllers:
            continue
        path = next((words[2] for words in lines if wanted in words[1].split(",")), None)
        if path is None or "b1-box-" not in path:
            continue
        folder = mount.point / path.removeprefix(mount.base.rstrip("/")).strip("/")
        if mount.version == 2:
            return Version2(folder, [], pid=os.getpid())
        return Version1({"memory": folder, "cpu": folder}, [])
    raise RuntimeError(f"no box was found around {inside}; here are {memory_groups(Path('/'))}")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
