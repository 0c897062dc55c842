"""Measures the caches in process: one client process per contender on one core, Redis and this process on the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

import measuring.peers_venv
from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, clean_environment, running_redis
from measuring.table import print_table

from b1.embedded import process
from caching.client import CALLERS, MANY, Redis
from caching.contenders import (
    ALL,
    CASHEWS_LOCKED,
    HAVE_MANY,
    IN_MEMORY,
    MEMORY,
    MIRROR,
    OF_FASTAPI_CACHE,
    OURS,
    TRIP,
    WITH_REDIS,
)

STAMPEDE = 1000
# Work: title, operations of a round, and how many are in flight.
WORKS = {
    "hit": ("hit", 4000, CALLERS),
    "miss": ("miss and load", 2000, CALLERS),
    "l2": ("found in Redis alone", 2000, CALLERS),
    "many": (f"a key of {MANY}, warm", 60, 1),
    "many, from Redis": (f"a key of {MANY}, in Redis alone", 1, 1),
}
Cells = dict[tuple[str, str], dict[str, float]]


class Client:
    """A contender's process."""

    def __init__(self, name: str, url: str, core: int | None) -> None:
        self.name = name
        self._child = subprocess.Popen(
            [python_of(name), "-m", "caching.client", name, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=clean_environment({}),
        )
        if core is not None:
            os.sched_setaffinity(self._child.pid, {core})

    def tell(self, **ask: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(ask) + "\n")
        self._child.stdin.flush()

    def hear(self) -> dict[str, float]:
        """Return the answer to what was told.

        Raises:
            RuntimeError: the process ended instead; it has said why.
        """
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._child.wait()}")
        return dict(json.loads(line))

    def ask(self, **ask: object) -> dict[str, float]:
        self.tell(**ask)
        return self.hear()

    def end(self) -> None:
        process.stop(self._child, signal.SIGTERM, patience_s=5.0)


def python_of(name: str) -> str:
    """Return the interpreter that has a contender's packages."""
    if name in OURS:
        return sys.executable
    measuring.peers_venv.LOCK = HERE / ("peers.txt" if name in OF_FASTAPI_CACHE else "cache-peers.txt")
    return str(peers_python())


def run(rounds: int) -> None:
    """Measure and print."""
    cores = Cores.of_this_process()
    with running_redis(cores) as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        with _clients(ALL, url, cores.server) as clients:
            cells = _costs(clients, rounds)
        _print_costs("In memory", IN_MEMORY, MEMORY, cells)
        _print_costs(f"On Redis, {CALLERS} callers at once", WITH_REDIS, MIRROR, cells)
        _print_trips(cells)
        _print_stampedes(url, cores)


@contextmanager
def _clients(names: Sequence[str], url: str, core: int | None) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        clients = []
        for name in names:
            clients.append(Client(name, url, core))
            stack.callback(clients[-1].end)
        yield clients


def _works(name: str) -> Iterator[str]:
    for work in WORKS:
        if ("many" in work and name not in HAVE_MANY) or (("l2" in work or "Redis" in work) and name in IN_MEMORY):
            continue
        yield work


def _costs(clients: Sequence[Client], rounds: int) -> Cells:
    """Return the least CPU of the rounds, and the trips of one caller alone."""
    cells: Cells = {}
    for client in clients:
        print(f"in process: {client.name}", file=sys.stderr)
        for work in _works(client.name):
            _, count, callers = WORKS[work]
            found = [client.ask(work=work, count=count, callers=callers) for _ in range(rounds)]
            cell = cells[client.name, work] = min(found, key=lambda one: one["cpu_us"])
            cell["connections"] = max(one["connections"] for one in found)
            if client.name not in IN_MEMORY:
                cell["trips"] = client.ask(work=work, count=1 if "many" in work else 200, callers=1)["trips"]
    return cells


def _print_costs(title: str, names: Sequence[str], ours: str, cells: Cells) -> None:
    print(f"### {title}: CPU µs an operation (× b1)\n")
    works = [work for work in WORKS if any((name, work) in cells for name in names)]
    rows = []
    for name in names:
        row = [name]
        for work in works:
            cell = cells.get((name, work))
            row.append("-" if cell is None else _cost(cell["cpu_us"], cells[ours, work]["cpu_us"]))
        rows.append(row)
    print_table(["", *(WORKS[work][0] for work in works)], rows)


def _cost(cpu_us: float, ours_us: float) -> str:
    return f"{cpu_us:.1f} ({cpu_us / ours_us:.1f})"


def _print_trips(cells: Cells) -> None:
    print("### Round trips of an operation, one caller alone; and connections of 50 callers\n")
    rows = []
    for name in WITH_REDIS:
        trips = [cells.get((name, work)) for work in WORKS]
        most = max(cell["connections"] for (who, _), cell in cells.items() if who == name)
        rows.append([name, *("-" if one is None else f"{one['trips']:.1f}" for one in trips), f"{most:.0f}"])
    head = [title.replace("a key", "all keys") for title, _, _ in WORKS.values()]
    print_table(["", *head, "connections"], rows)


def _print_stampedes(url: str, cores: Cores) -> None:
    """A thousand callers of one key that is not there: in one process, and half of them in another."""
    redis, rows = Redis(url), []
    for name in (*IN_MEMORY, MIRROR, TRIP, *WITH_REDIS[2:], CASHEWS_LOCKED):
        print(f"stampede: {name}", file=sys.stderr)
        row = [name]
        for processes in (1, 2) if name not in IN_MEMORY else (1,):
            with _clients([name] * processes, url, None) as clients:
                found = [_stampede(clients, redis) for _ in range(2)]
            loads = [sum(one["loads"] for one in each) for each in found]
            took = median(max(one["took_ms"] for one in each) for each in found)
            cpu = median(sum(one["cpu_ms"] for one in each) for each in found)
            # Each client looks at the server over a connection of its own, and so does this process.
            most = max(one["connections"] for each in found for one in each) - processes
            row += [_range(loads), f"{took:.0f}", f"{cpu:.0f}", "-" if name in IN_MEMORY else f"{most:.0f}"]
        rows.append([*row, *("-" * (9 - len(row)))])
    print(f"### Stampede: {STAMPEDE} callers at once, one key, a load of 50 ms\n")
    columns = ["loads", "last answer, ms", "CPU ms", "connections"]
    print_table(["", *columns, *(f"2 processes: {column}" for column in columns)], rows)


def _stampede(clients: Sequence[Client], redis: Redis) -> list[dict[str, float]]:
    redis.flush()
    at = time.time() + 0.3
    for client in clients:
        client.tell(work="stampede", count=STAMPEDE // len(clients), at=at)
    return [client.hear() for client in clients]


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
