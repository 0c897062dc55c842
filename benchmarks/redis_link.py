"""What does a command to Redis cost on b1's one connection, and what does it cost with the clients one would use instead?

Every client runs in a process of its own on one core, the server (and the delaying proxy) on the other. Rounds
alternate between the clients, so that what else the machine does meets all of them; numbers are medians of the rounds.
CPU is the client process's, all threads, user and system.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import measuring.peers_venv
from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, clean_environment, running_redis
from measuring.table import machine, print_table
from redis_measuring.contenders import CONTENDERS
from redis_measuring.lines import delayed, tls_binary, tls_redis

from b1.embedded import process

measuring.peers_venv.LOCK = HERE / "redis-peers.txt"
WORKS = ("GET 100 B", "SET 1 KB", "limiter script")
CALLERS = (1, 50, 500)
ONE_WAY_MS = 1.0
OURS, POOL, ONE, GLIDE = "b1", "redis-py, pool of 10", "redis-py, 1 connection", "valkey-glide, 1 connection"
MIB = 1024 * 1024


class Client:
    """A client's process."""

    def __init__(self, name: str, core: int, keys: list[str], arguments: list[str]) -> None:
        self.name = name
        python = sys.executable if name == OURS else str(peers_python())
        self._child = subprocess.Popen(
            [python, "-m", "redis_measuring.client", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=clean_environment({}),
        )
        os.sched_setaffinity(self._child.pid, {core})
        self.import_bytes = int(self.ask(keys=keys, arguments=arguments)["import_bytes"])

    def ask(self, **what: Any) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True)
class Figures:
    """One client at one work: medians."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Line:
    """Where the clients connect to."""

    name: str
    url: str
    ca: str | None
    count_url_port: int | None


def limiter_call() -> tuple[str, list[str], list[str]]:
    """Return source, keys and arguments of the script that decides about a request with two policies."""
    from b1.store.base import Charge
    from b1.store.redis import RedisStore

    class Recorder:
        def __init__(self) -> None:
            self.sources: dict[str, str] = {}

        def register(self, name: str, source: str) -> None:
            self.sources[name] = source

        async def script(self, name: str, keys: list[str], arguments: list[Any]) -> Any:
            raise _Recorded(self.sources[name], list(keys), [str(argument) for argument in arguments])

    store = RedisStore(Recorder(), "bench")  # type: ignore[arg-type]  # it records instead of sending
    charges = [Charge("limit:read:1", 2**30, 60_000), Charge("limit:general:1", 2**30, 60_000)]
    try:
        asyncio.run(store.spend(charges))
    except _Recorded as recorded:
        return recorded.call
    raise RuntimeError("the store sent no script")


class _Recorded(Exception):
    def __init__(self, source: str, keys: list[str], arguments: list[str]) -> None:
        super().__init__("recorded")
        self.call = source, keys, arguments


def measure(clients: list[Client], line: Line, script: str, options: argparse.Namespace) -> dict[Any, Figures]:
    """Measure all works of all clients over one line."""
    for client in clients:
        added = client.ask(do="connect", url=line.url, ca=line.ca, script=script)
        if line.count_url_port is not None:
            print_connected(client, added, line.count_url_port)
    figures: dict[Any, Figures] = {}
    for work in WORKS:
        for callers in CALLERS:
            print(f"{line.name}: {work}, {callers} callers", file=sys.stderr)
            rounds: dict[str, list[dict[str, Any]]] = {client.name: [] for client in clients}
            for _ in range(options.rounds):
                for client in clients:
                    asked = {"do": "run", "work": work, "callers": callers, "seconds": options.seconds}
                    rounds[client.name].append(client.ask(**asked))
            for name, answers in rounds.items():
                figures[name, work, callers] = _median(answers)
    for client in clients:
        client.ask(do="close")
    return figures


_connected: list[tuple[str, ...]] = []


def print_connected(client: Client, added: dict[str, Any], port: int) -> None:
    """Keep what the client weighs, with ten calls at once in flight, for the table of weights."""
    client.ask(do="run", work="GET 100 B", callers=50, seconds=0.1)
    listed = process_clients(port)
    _connected.append(
        (
            client.name,
            f"{client.import_bytes / MIB:.1f}",
            f"{added['added_bytes'] / MIB:.1f}",
            str(listed - sum(int(row[3]) for row in _connected)),
        )
    )


def process_clients(port: int) -> int:
    """Count the clients of a server, this look not among them."""
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"INFO clients\r\n")
        text = connection.recv(65_536).decode()
    return int(text.split("connected_clients:")[1].split()[0]) - 1


def print_figures(line: Line, figures: dict[Any, Figures], names: list[str]) -> None:
    """Print one table per work."""
    for work in WORKS:
        print(f"### {work}, {line.name}\n")
        header = ["client", *(f"{head}, {n}" for n in CALLERS for head in ("ops/s", "CPU µs/op", "p50 / p99 ms"))]
        rows = []
        for name in names:
            row = [name]
            for callers in CALLERS:
                one = figures[name, work, callers]
                row += [f"{one.per_s:,.0f}", f"{one.cpu_us:.1f}", f"{one.p50_ms:.2f} / {one.p99_ms:.2f}"]
            rows.append(row)
        print_table(header, rows)


def print_targets(plain: dict[Any, Figures], slow: dict[Any, Figures], import_mib: float) -> None:
    """Print what was aimed at and what was measured."""
    at = ("GET 100 B", 50)
    pool = plain[POOL, *at].cpu_us / plain[OURS, *at].cpu_us
    glide = plain[GLIDE, *at].cpu_us / plain[OURS, *at].cpu_us
    faster = slow[OURS, *at].per_s / slow[ONE, *at].per_s
    print("### Targets\n")
    print_table(
        ("GET of 100 B, 50 callers, one connection, no TLS", "target", "measured"),
        [
            ("CPU per command: redis-py's pool of 10 ÷ b1", "12", f"{pool:.0f}"),
            ("CPU per command: valkey-glide ÷ b1", "5", f"{glide:.0f}"),
            (f"throughput at {2 * ONE_WAY_MS:g} ms: b1 ÷ redis-py on one connection", "30", f"{faster:.0f}"),
            ("MiB that the import adds above asyncio and ssl", "at most 12", f"{import_mib:.1f}"),
        ],
    )


def _median(answers: list[dict[str, Any]]) -> Figures:
    return Figures(
        median(one["done"] / one["s"] for one in answers),
        median(one["cpu_s"] / one["done"] * 1e6 for one in answers),
        median(one["p50_ms"] for one in answers),
        median(one["p99_ms"] for one in answers),
    )


@contextmanager
def clients_of(names: list[str], core: int, keys: list[str], arguments: list[str]) -> Iterator[list[Client]]:
    clients: list[Client] = []
    try:
        for name in names:
            clients += [Client(name, core, keys, arguments)]  # one by one: those that began are ended, whatever happens
        yield clients
    finally:
        for client in clients:
            client.end()


def fill(port: int, ca: str | None = None) -> None:
    """Write the value that is read."""
    import socket
    import ssl

    connection: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
    if ca is not None:
        connection = ssl.create_default_context(cafile=ca).wrap_socket(connection, server_hostname="localhost")
    with connection:
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$9\r\nbench:get\r\n$100\r\n" + b"v" * 100 + b"\r\n")
        assert connection.recv(10) == b"+OK\r\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tls-server", help="a Redis built with TLS; default: the one on PATH")
    parser.add_argument("--only", choices=("plain", "delayed", "tls"), help="one line alone, without the targets")
    options = parser.parse_args()
    names = list(CONTENDERS)
    script, keys, arguments = limiter_call()
    cores = Cores.of_this_process()
    print(machine() + "\n")
    tables: dict[str, dict[Any, Figures]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="b1-bench-") as folder,
        running_redis(cores) as redis,
        clients_of(names, cores.server, keys, arguments) as clients,
    ):
        fill(redis.port)
        import_mib = clients[0].import_bytes / MIB

        def run(line: Line) -> None:
            tables[line.name] = measure(clients, line, script, options)
            print_figures(line, tables[line.name], names)

        if options.only in (None, "plain"):
            run(Line("local", f"redis://localhost:{redis.port}", None, redis.port))
            print("### Weight\n")
            head = ("client", "MiB added by import", "MiB added, connected", "connections at 50 callers")
            print_table(head, _connected)
        if options.only in (None, "delayed"):
            with delayed(redis.port, ONE_WAY_MS, cores.load) as port:
                run(Line(f"{ONE_WAY_MS:g} ms each way", f"redis://localhost:{port}", None, None))
        if options.only in (None, "tls"):
            binary = tls_binary(options.tls_server)
            if binary is None:
                print("TLS was not measured: no Redis that can do it was found (`--tls-server`).\n")
            else:
                with tls_redis(binary, Path(folder), cores.load) as (port, ca):
                    fill(port, str(ca))
                    run(Line("with TLS", f"rediss://localhost:{port}", str(ca), None))
    if options.only is None:
        print_targets(tables["local"], tables[f"{ONE_WAY_MS:g} ms each way"], import_mib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
