"""Starting the contenders and a Redis on chosen cores, and reading what CPU a process has used.

Everything that is started dies with this process (Linux), so an interrupted benchmark leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from b1.embedded import process
from b1.embedded.binaries import redis_binary

HERE = Path(__file__).parents[1]
START_LIMIT_S = 30.0
_PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core serves and which ones load it; the same single one where there is only one."""

    server: int
    load: frozenset[int]

    @classmethod
    def of_this_process(cls) -> Cores:
        """Give the last usable core to the server: the first one gets most interrupts."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[-1], frozenset(usable[:-1] or usable))


@dataclass(frozen=True, slots=True)
class Started:
    """A running server."""

    pid: int
    port: int
    log: Path

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads, user and system, in seconds with nanosecond resolution.

        The clock id is the kernel's own formula for the CPU clock of another process (clock_getcpuclockid(3)).
        """
        return time.clock_gettime(((~self.pid) << 3) | 2)


@contextmanager
def running_redis(cores: Cores) -> Iterator[Started]:
    """Run a Redis or Valkey that keeps nothing, beside the load."""
    folder = Path(tempfile.mkdtemp(prefix="b1-bench-"))
    port = process.free_port()
    command = [redis_binary(), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    try:
        with _running([*command, "--dir", folder], port, folder / "redis.log", {}) as redis:
            os.sched_setaffinity(redis.pid, cores.load)
            yield redis
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_contender(
    python: Path, app: str, environment: dict[str, str], cores: Cores, kind: str = "uvicorn"
) -> Iterator[Started]:
    """Serve a contender on the server's core; `kind`: whose protocol."""
    port = process.free_port()
    command: list[str | Path] = [python, "-m", "contenders.serve", app, str(port), str(cores.server), kind]
    with (
        tempfile.TemporaryDirectory(prefix="b1-bench-") as folder,
        _running(command, port, Path(folder) / "server.log", environment) as server,
    ):
        yield server


@contextmanager
def _running(command: Sequence[str | Path], port: int, log: Path, environment: dict[str, str]) -> Iterator[Started]:
    with log.open("wb") as output:
        child = process.start(
            command, death_signal=signal.SIGKILL, cwd=HERE, env=clean_environment(environment), output=output
        )
    try:
        is_up = process.wait_until(
            lambda: child.poll() is not None or process.can_connect("127.0.0.1", port), limit_s=START_LIMIT_S
        )
        if not is_up or child.poll() is not None:
            raise RuntimeError(f"{' '.join(map(str, command))} did not start:\n{log.read_text(errors='replace')}")
        yield Started(child.pid, port, log)
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    process.stop(child, signal.SIGTERM, patience_s=10.0)


def clean_environment(more: dict[str, str]) -> dict[str, str]:
    """Return an environment without the settings of whoever runs the benchmark."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | more
