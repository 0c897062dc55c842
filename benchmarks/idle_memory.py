"""How much memory does the whole process tree of the reference app hold when it is idle, without Postgres?

PSS counts a page that processes share once among them, so the sum over master and worker is what the box really gives.
The app is started with `python -m b1 run`, answers a few requests, rests, and is measured.
"""

from __future__ import annotations

import argparse
import http.client
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from measuring.processes import clean_environment
from measuring.table import machine, print_table

from b1.embedded import process

HERE = Path(__file__).parents[1]
START_LIMIT_S = 30.0
MIB = 1024 * 1024
GOAL_MIB = 110


@dataclass(frozen=True, slots=True)
class Held:
    """One process's memory, in bytes.

    Attributes:
        pss: its own pages and its share of shared ones.
        private: what would be free if it ended.
        rss: everything mapped, shared pages counted whole; what `ps` shows.
    """

    pid: int
    pss: int
    private: int
    rss: int

    @classmethod
    def of(cls, pid: int) -> Held:
        """Read it from the kernel's roll-up."""
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return cls(pid, kib["Pss"] * 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024, kib["Rss"] * 1024)


def measure(app: str, requests: int, rest_s: float) -> list[Held]:
    """Start the app, warm it with probes, let it rest and return its processes, the master first."""
    port = process.free_port()
    environment = clean_environment({"HOST": "127.0.0.1", "PORT": str(port), "AUTH_JWT_SECRET": "x" * 40})
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, (Path(folder) / "log").open("wb") as log:
        environment["B1_STATE_DIR"] = folder
        command = [sys.executable, "-m", "b1", "run", app]
        child = process.start(
            command, death_signal=signal.SIGTERM, own_group=True, cwd=HERE, env=environment, output=log
        )
        try:
            if not process.wait_until(lambda: child.poll() is not None or _is_ready(port), limit_s=START_LIMIT_S):
                raise RuntimeError(f"not ready:\n{(Path(folder) / 'log').read_text()}")
            if child.poll() is not None:
                raise RuntimeError(f"ended:\n{(Path(folder) / 'log').read_text()}")
            for _ in range(requests):
                _get(port, "/health/detailed")
            time.sleep(rest_s)
            tree = [child.pid, *(one.pid for one in psutil.Process(child.pid).children(recursive=True))]
            return [Held.of(pid) for pid in tree]
        finally:
            process.stop(child, signal.SIGTERM, patience_s=15.0)


def _get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _is_ready(port: int) -> bool:
    try:
        return _get(port, "/ready") == 200
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--app", default="app.main:app")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--rest", type=float, default=3.0, help="seconds between the last request and the measurement")
    arguments = parser.parse_args()
    print(machine() + "\n")
    held = measure(arguments.app, arguments.requests, arguments.rest)
    names = ["gunicorn master", *("worker" for _ in held[1:])]
    rows = [(name, _mib(one.pss), _mib(one.private), _mib(one.rss)) for name, one in zip(names, held, strict=True)]
    total = sum(one.pss for one in held)
    private, rss = sum(one.private for one in held), sum(one.rss for one in held)
    print_table(
        ("process", "PSS MiB", "private MiB", "RSS MiB"), [*rows, ("all", _mib(total), _mib(private), _mib(rss))]
    )
    print(f"Goal: at most {GOAL_MIB} MiB PSS in all; {'met' if total <= GOAL_MIB * MIB else 'NOT met'}.\n")
    return 0


def _mib(count: int) -> str:
    return f"{count / MIB:.1f}"


if __name__ == "__main__":
    sys.exit(main())
