"""How much memory does the whole process tree of the reference app hold when it is idle, without Postgres?

PSS counts a page that processes share once among them, so the sum over master and worker is what the box really gives.
The app is started with `python -m b1 run`, answers a few probes, rests, and is measured: once alone, and once with
Postgres and Redis connected, which are not part of its tree.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from measuring.processes import Cores, clean_environment, running_redis
from measuring.table import machine, print_table

from b1.embedded import process
from b1.embedded.postgres import EmbeddedPostgres

HERE = Path(__file__).parents[1]
START_LIMIT_S = 30.0
ASKED = 50
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


@contextmanager
def stores() -> Iterator[dict[str, str]]:
    """Run a migrated Postgres and a Redis, which are not counted, and give the environment that names them."""
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, running_redis(Cores.of_this_process()) as redis:
        postgres = EmbeddedPostgres(Path(folder), say=lambda _: None)
        environment = {"DATABASE_URL": postgres.start(), "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0"}
        try:
            migrate = [sys.executable, "-m", "b1", "migrate", "--quiet"]
            subprocess.run(migrate, cwd=HERE, env=clean_environment(environment), check=True, stdout=subprocess.DEVNULL)
            yield environment
        finally:
            postgres.stop()


def measure(app: str, more: dict[str, str], rest_s: float) -> list[Held]:
    """Start the app, ask it a few times, let it rest and return its processes, the master first."""
    port = process.free_port()
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, (Path(folder) / "log").open("wb") as log:
        settings = {"HOST": "127.0.0.1", "PORT": str(port), "AUTH_JWT_SECRET": "x" * 40, "B1_STATE_DIR": folder}
        child = process.start(
            [sys.executable, "-m", "b1", "run", app],
            death_signal=signal.SIGTERM,
            own_group=True,
            cwd=HERE,
            env=clean_environment(settings | more),
            output=log,
        )
        try:
            is_up = process.wait_until(lambda: child.poll() is not None or _is_ready(port), limit_s=START_LIMIT_S)
            if not is_up or child.poll() is not None:
                raise RuntimeError(f"b1 run did not get ready:\n{(Path(folder) / 'log').read_text()}")
            for _ in range(ASKED):
                status, body = _get(port, "/health/detailed")
            if "DATABASE_URL" in more:
                _check_connected(status, body)
            time.sleep(rest_s)
            tree = [child.pid, *(one.pid for one in psutil.Process(child.pid).children(recursive=True))]
            return [Held.of(pid) for pid in tree]
        finally:
            process.stop(child, signal.SIGTERM, patience_s=15.0)


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _check_connected(status: int, body: bytes) -> None:
    """Make sure that what is measured has its connections open."""
    components = json.loads(body)["components"]
    found = {name: components[name]["status"] for name in ("postgres", "redis")}
    if status != 200 or set(found.values()) != {"healthy"}:
        raise RuntimeError(f"expected both healthy, got {found}")


def _is_ready(port: int) -> bool:
    try:
        return _get(port, "/ready")[0] == 200
    except OSError:
        return False


def print_held(title: str, held: list[Held]) -> int:
    """Print one table and return the sum of PSS, in bytes."""
    print(f"{title}:\n")
    names = ["gunicorn master", *("worker" for _ in held[1:])]
    rows = [(name, _mib(one.pss), _mib(one.private), _mib(one.rss)) for name, one in zip(names, held, strict=True)]
    total = sum(one.pss for one in held)
    private, rss = sum(one.private for one in held), sum(one.rss for one in held)
    print_table(
        ("process", "PSS MiB", "private MiB", "RSS MiB"), [*rows, ("all", _mib(total), _mib(private), _mib(rss))]
    )
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--app", default="app.main:app")
    parser.add_argument("--rest", type=float, default=3.0, help="seconds between the last request and the measurement")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    print(machine() + "\n")
    alone = print_held("No database, memory store", measure(arguments.app, {}, arguments.rest))
    with stores() as environment:
        full = print_held("Postgres and Redis connected", measure(arguments.app, environment, arguments.rest))
    is_met = max(alone, full) <= GOAL_MIB * MIB
    print(f"Goal: at most {GOAL_MIB} MiB PSS in all, {'met' if is_met else 'NOT met'}.\n")
    return 0


def _mib(count: int) -> str:
    return f"{count / MIB:.1f}"


if __name__ == "__main__":
    sys.exit(main())
