"""What does a decision of the limiter cost, in memory and on Redis, and what does it cost with the limiters one would use?

Every contender runs in a process of its own on one core, the server on the other. Rounds alternate between the contenders,
so that what else the machine does meets all of them; numbers are medians of the rounds. CPU is the contender's process,
user and system, per decision about one request: all its policies, and what its headers need.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import measuring.peers_venv
from limiter_measuring.contenders import ALONE, CONTENDERS, OURS
from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, clean_environment, running_redis
from measuring.table import machine, print_table

from b1.embedded import process

measuring.peers_venv.LOCK = HERE / "limiter-peers.txt"
POLICIES = (1, 2, 4)
MANY_KEYS = 100_000
FILLED = 10_000
TRIPS = 200
LIMITS, MOVING = "limits, fixed window", "limits, moving window"
# What its in-process memory, or one bucket for everybody, makes a number of something else.
NO_KEYS = {"fastapi-limiter": "one bucket for all callers", "throttled-py, GCRA": "forgets all but 1024"}
Results = dict[tuple[str, str], float]


class Client:
    """A contender's process."""

    def __init__(self, name: str, core: int) -> None:
        self.name = name
        python = sys.executable if name in (OURS, ALONE) else str(peers_python())
        self._child = subprocess.Popen(
            [python, "-m", "limiter_measuring.client", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=clean_environment({}),
        )
        os.sched_setaffinity(self._child.pid, {core})

    def ask(self, **what: Any) -> dict[str, float]:
        """Send one line and return the answer."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(what) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._child.wait()}")
        return dict(json.loads(line))

    def end(self) -> None:
        """End the process."""
        process.stop(self._child, signal.SIGTERM, patience_s=5.0)


class Server:
    """A look at the Redis from outside."""

    def __init__(self, port: int) -> None:
        self._port = port

    def flush(self) -> None:
        """Forget everything, so that nobody meets another's counters."""
        self._call(b"FLUSHALL\r\n")

    def number(self, section: str, name: str) -> int:
        """Return a number of ``INFO``."""
        text = self._call(f"INFO {section}\r\n".encode())
        return int(text.split(f"{name}:")[1].split()[0])

    def _call(self, command: bytes) -> str:
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.sendall(command)
            return connection.recv(65_536).decode()


def measure(
    clients: list[Client], url: str | None, server: Server, options: argparse.Namespace
) -> tuple[Results, Results]:
    """Return CPU microseconds and decisions a second, by contender and work."""
    works = [(_policies(number), {"work": "hot", "policies": number, "keys": 1}) for number in POLICIES]
    works.append((f"2 policies, {MANY_KEYS:,} callers", {"work": "hot", "policies": 2, "keys": MANY_KEYS}))
    works.append(("refused, 2 policies", {"work": "attack", "policies": 2, "keys": 1}))
    cpu_us: Results = {}
    per_s: Results = {}
    for title, work in works:
        print(f"{'memory' if url is None else 'Redis'}: {title}", file=sys.stderr)
        rounds: dict[str, list[dict[str, float]]] = {client.name: [] for client in clients}
        for _ in range(options.rounds):
            for client in clients:
                server.flush()
                rounds[client.name].append(client.ask(url=url, seconds=options.seconds, **work))
        for name, answers in rounds.items():
            cpu_us[name, title] = median(one["cpu_s"] / one["done"] * 1e6 for one in answers)
            per_s[name, title] = median(one["done"] / one["s"] for one in answers)
    return cpu_us, per_s


def _policies(number: int) -> str:
    return "1 policy" if number == 1 else f"{number} policies"


def trips(client: Client, url: str, server: Server, policies: int) -> float:
    """Return the round trips of a decision: what the server read, by a contender that asks one after the other."""
    # Of two runs that differ in their length alone the difference is the decisions' own.
    counts = []
    for count in (TRIPS, 2 * TRIPS):
        server.flush()
        before = server.number("stats", "total_reads_processed")
        client.ask(url=url, work="trips", policies=policies, keys=1, seconds=0, count=count)
        counts.append(server.number("stats", "total_reads_processed") - before)
    return (counts[1] - counts[0]) / TRIPS


def bytes_per_key(client: Client, url: str | None, server: Server) -> float:
    """Return what one caller under one policy takes, in the process or in the server."""
    server.flush()
    before = server.number("memory", "used_memory")
    here = client.ask(url=url, work="fill", policies=1, keys=FILLED, seconds=0)["bytes"]
    return here if url is None else (server.number("memory", "used_memory") - before) / FILLED


def print_results(title: str, names: list[str], cpu_us: Results, per_s: Results) -> None:
    """Print one table."""
    works = list(dict.fromkeys(work for _, work in cpu_us))
    print(f"### {title}: CPU µs a decision (decisions/s)\n")
    rows = [[name, *(f"{cpu_us[name, work]:.1f} ({per_s[name, work]:,.0f})" for work in works)] for name in names]
    print_table(["", *works], rows)


def print_targets(here: Results, there: Results, trips_of: dict[int, float]) -> None:
    """Print what was aimed at and what was measured."""
    many, attack = "4 policies", "refused, 2 policies"
    print("### Targets\n")
    rows = [
        ("round trips with 1, 2 and 4 policies", "1", ", ".join(f"{one:.2f}" for one in trips_of.values())),
        ("in memory, 4 policies: CPU µs", "at most 5", f"{here[ALONE, many]:.1f}"),
        ("refused by the deny cache: CPU µs", "at most 1", f"{here[ALONE, attack]:.1f}"),
        ("with Redis, 50 callers, 4 policies and headers: CPU µs", "at most 60", f"{there[OURS, many]:.1f}"),
    ]
    rows += [
        (f"{name} ÷ b1 on Redis, {work}: CPU", "at least 10", f"{there[name, work] / there[OURS, work]:.1f}")
        for name in (LIMITS, MOVING)
        for work in ("2 policies", many)
    ]
    print_table(("", "target", "measured"), rows)


def print_spray(core: int) -> None:
    """Print what a million invented addresses cost the process."""
    print("a million addresses", file=sys.stderr)
    command = ["taskset", "-c", str(core), sys.executable, "-m", "limiter_measuring.spray"]
    environment = clean_environment({"PYTHONHASHSEED": "0"})
    runs = [
        json.loads(
            subprocess.run(command, cwd=HERE, env=environment, check=True, capture_output=True, timeout=600).stdout
        )
        for _ in range(2)
    ]
    found = min(runs, key=lambda run: float(run["cpu_us"]))
    again = runs[1]["pauses_ms"]
    pauses_ms = [min(took_ms, again[at]) for at, took_ms in runs[0]["pauses_ms"].items() if at in again]
    print("### A million invented addresses, one request each, in memory\n")
    rows = [
        ("CPU of a decision", "at most 20 µs", f"{found['cpu_us']:.1f} µs"),
        ("accounted, at most", "32 MiB", f"{found['held_bytes'] / 2**20:.1f} MiB"),
        ("growth of the process", "", f"{found['grown_bytes'] / 2**20:.1f} MiB"),
        ("longest pause in both of two runs", "at most 5 ms", f"{max(pauses_ms, default=1.0):.1f} ms"),
        ("pauses over 1 ms in both", "", f"{len(pauses_ms)}"),
        ("objects that a full collection walks", "", f"{found['walked']:,.0f}"),
        ("full collection", "at most 5 ms", f"{found['collection_ms']:.1f} ms"),
        ("units counted of a caller before the flood", "7", f"{found['polite']:.0f}"),
    ]
    print_table(("", "target", "measured"), rows)


@contextmanager
def clients_of(names: list[str], core: int) -> Iterator[list[Client]]:
    clients: list[Client] = []
    try:
        for name in names:
            clients += [Client(name, core)]  # one by one: those that began are ended, whatever happens
        yield clients
    finally:
        for client in clients:
            client.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="b1 alone, without the targets")
    options = parser.parse_args()
    names = [OURS, ALONE] if options.ours else list(CONTENDERS)
    cores = Cores.of_this_process()
    print(machine() + "\n")
    with running_redis(cores) as redis, clients_of(names, cores.server) as clients:
        server, url = Server(redis.port), f"redis://127.0.0.1:{redis.port}/0"
        here, here_per_s = measure(clients, None, server, options)
        print_results("In memory", names, here, here_per_s)
        there, there_per_s = measure(clients, url, server, options)
        print_results("On Redis, 50 callers at once", names, there, there_per_s)
        counted = {client.name: {n: trips(client, url, server, n) for n in POLICIES} for client in clients}
        rows = []
        for client in clients:
            if client.name == ALONE:
                continue
            sizes = [f"{bytes_per_key(client, where, server):,.0f}" for where in (None, url)]
            note = NO_KEYS.get(client.name)
            if note is not None:
                sizes[0] = note
            rows.append([client.name, *(f"{counted[client.name][n]:.1f}" for n in POLICIES), *sizes])
        print("### Round trips, and bytes of a caller who calls once\n")
        head = ["", *(f"trips, {_policies(n)}" for n in POLICIES), "bytes in memory", "bytes in Redis"]
        print_table(head, rows)
        if not options.ours:
            print_targets(here, there, counted[OURS])
    print_spray(cores.server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
