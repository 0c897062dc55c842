"""What does the governor cost: of the core while nothing happens, and of each request?

Idle: two servers of the same application, one of them with a governor that takes no samples, rest side by side for a
minute; what their workers used differs by the sampling. Once in `b1 box`, where a control group is read, and once outside,
where processes are. Per request: instructions by callgrind with the level asked for and with a constant in its place.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attacks.boxed import boxed
from contenders.document import PATH
from measuring.instructions import instructions_per_request
from measuring.processes import HERE, clean_environment
from measuring.table import machine, print_table
from measuring.tokens import OUR_ENVIRONMENT

from b1.clock import SystemClock
from b1.embedded import process
from b1.governor import Governor
from b1.plan import B1_MEMORY_BYTES, WATERMARKS

GOVERNED, UNWATCHED, UNGOVERNED = "contenders.ours:app", "contenders.unwatched:app", "contenders.ungoverned:app"
SETTLE_S = 5.0
START_LIMIT_S = 40.0
GOAL_PER_CENT = 1.0
GOAL_US = 5.0
CALLS = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the workers rest")
    parser.add_argument("--no-callgrind", action="store_true", help="leave the instructions out (some minutes)")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    print(machine() + "\n")
    print_idle(arguments.seconds)
    print_per_request(with_instructions=not arguments.no_callgrind and shutil.which("valgrind") is not None)
    return 0


def print_idle(seconds: float) -> None:
    """Measure idle workers, all at the same time, and print the table."""
    with ExitStack() as stack:
        workers = {
            (place, app): stack.enter_context(serving(app))
            for place, serving in (("in a box", _in_box), ("outside", _outside))
            for app in (GOVERNED, UNWATCHED)
        }
        time.sleep(SETTLE_S)
        before = {key: _cpu_s(pid) for key, pid in workers.items()}
        begun_s = time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - begun_s
        used = {key: 100 * (_cpu_s(pid) - before[key]) / took_s for key, pid in workers.items()}
    rows = []
    for place in ("in a box", "outside"):
        governed, unwatched = used[place, GOVERNED], used[place, UNWATCHED]
        rows.append((place, f"{governed:.3f}", f"{unwatched:.3f}", f"{governed - unwatched:.3f}"))
    print(f"An idle worker over {took_s:.0f} s, in % of a core:\n")
    print_table(("worker", "with the governor", "without", "the governor"), rows)
    worst = max(used[place, GOVERNED] - used[place, UNWATCHED] for place in ("in a box", "outside"))
    print(f"Goal: below {GOAL_PER_CENT:g} % of the core, {'met' if worst < GOAL_PER_CENT else 'NOT met'}.\n")


def print_per_request(*, with_instructions: bool) -> None:
    """Print what a request pays for asking the level."""
    governor = Governor(SystemClock(), limit_bytes=B1_MEMORY_BYTES, marks=WATERMARKS, interval_s=0.5)
    us = min(timeit.repeat(lambda: governor.level, number=CALLS, repeat=5)) / CALLS * 1e6
    print(f"Asking for the level once: {us:.3f} us; goal for all of a request: below {GOAL_US:g} us.\n")
    if with_instructions:
        try:
            asked, constant = (instructions_per_request(app, PATH) for app in (UNWATCHED, UNGOVERNED))
        except subprocess.CalledProcessError as error:
            print(f"Instructions were not counted: {error.stderr.decode(errors='replace')[-300:]}")
            return
        rows = [
            ("the level is asked for", f"{asked:,.0f}"),
            ("a constant in its place", f"{constant:,.0f}"),
            ("the governor", f"{asked - constant:,.0f} ({100 * (asked - constant) / constant:.2f} %)"),
        ]
        print_table(("a request", "instructions"), rows)


@contextmanager
def _in_box(app: str) -> Iterator[int]:
    command = [sys.executable, "-m", "b1", "run", app]
    with boxed(command, ["--profile", "docker"], OUR_ENVIRONMENT) as server:
        yield _worker_of(server.pid)


@contextmanager
def _outside(app: str) -> Iterator[int]:
    port = process.free_port()
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, (Path(folder) / "log").open("wb") as log:
        settings = {"HOST": "127.0.0.1", "PORT": str(port), "B1_STATE_DIR": folder, **OUR_ENVIRONMENT}
        command = [sys.executable, "-m", "b1", "run", app]
        environment = clean_environment(settings)
        child = process.start(
            command, death_signal=signal.SIGTERM, own_group=True, cwd=HERE, env=environment, output=log
        )
        try:
            yield _worker_of(child.pid)
        finally:
            process.stop(child, signal.SIGTERM, patience_s=15.0)


def _worker_of(pid: int) -> int:
    """Return the last descendant: the worker of a master, of a box.

    Raises:
        RuntimeError: there is none.
    """
    found: list[int] = []

    def is_there() -> bool:
        found[:] = _descendants(pid)
        return bool(found) and _is_worker(found[-1])

    if not process.wait_until(is_there, limit_s=START_LIMIT_S, every_s=0.2):
        raise RuntimeError(f"{pid} has no worker")
    return found[-1]


def _descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(one for child in children for one in _descendants(child))]


def _is_worker(pid: int) -> bool:
    parent = next(
        line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid")
    )
    return all(b"gunicorn" in Path(f"/proc/{one}/cmdline").read_bytes() for one in (pid, parent))


def _cpu_s(pid: int) -> float:
    """Return what all threads of a process have used; the clock id is the kernel's formula (clock_getcpuclockid(3))."""
    return time.clock_gettime(((~pid) << 3) | 2)


if __name__ == "__main__":
    sys.exit(main())
