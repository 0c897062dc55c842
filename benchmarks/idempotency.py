"""What does an idempotency key cost: CPU, round trips, bytes; for a first use, a replay and a conflict?

CPU is that of the server's process, per request, less what the same handler costs on a route without keys of the same
server. Round trips are the read events that Redis itself counts while one client asks alone, messages to Postgres what b1
counts; both are less those of the route without keys. All contenders are measured in turn, round after round.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from subprocess import CalledProcessError

import uvloop
from idempotency_measuring.load import post_request, run_requests
from idempotency_measuring.order import (
    CACHED,
    COUNTS,
    KEYED,
    KEYED_TRANSACTION,
    PLAIN,
    PLAIN_TRANSACTION,
    asked,
)
from measuring.load import get_request
from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, Started, clean_environment, running_contender, running_redis
from measuring.table import machine, print_table
from measuring.tokens import OUR_ENVIRONMENT, callers

from b1.embedded.postgres import EmbeddedPostgres

WARM_UP = 200
COUNTED = 100
QUIET_S = 2.0  # what a start leaves behind would be counted
REPLAYED = b"idempotent-replayed: true"
OURS, PEERS = "idempotency_measuring.ours:app", "idempotency_measuring.peers:app"


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the table.

    Attributes:
        conflict: status of a key with another payload; None: not noticed, the stored answer is given.
        redis: database number; None: everything is in the process.
        beside: name of another contender whose route without keys counts as this one's own.
    """

    name: str
    app: str
    environment: Mapping[str, str]
    keyed: str = KEYED
    plain: str = PLAIN
    conflict: int | None = 409
    redis: int | None = None
    is_peer: bool = False
    needs_postgres: bool = False
    is_cached: bool = False
    beside: str | None = None


BARE = "bare FastAPI"
CONTENDERS = (
    Contender("b1, memory", OURS, OUR_ENVIRONMENT, is_cached=True),
    Contender("b1, Redis", OURS, OUR_ENVIRONMENT, redis=0, is_cached=True),
    Contender(
        "b1, Postgres and Redis, one transaction", OURS, OUR_ENVIRONMENT, KEYED_TRANSACTION, PLAIN_TRANSACTION,
        redis=1, needs_postgres=True, is_cached=True,
    ),
    Contender(BARE, PEERS, {"PEER": ""}, is_peer=True, keyed=PLAIN),
    Contender(
        "asgi-idempotency-header, memory", PEERS, {"PEER": "asgi-idempotency-header"}, conflict=None, is_peer=True,
        beside=BARE,
    ),
    Contender(
        "asgi-idempotency-header, Redis", PEERS, {"PEER": "asgi-idempotency-header"}, conflict=None, redis=2,
        is_peer=True, beside=BARE,
    ),
    Contender(
        "fastapi-idempotency, memory", PEERS, {"PEER": "fastapi-idempotency"}, conflict=422, is_peer=True, beside=BARE
    ),
)  # fmt: skip


@dataclass(slots=True)
class Cost:
    """What one contender used per request, in µs by kind of request and round; and what was counted."""

    us: dict[str, list[float]] = field(default_factory=dict)
    trips: dict[str, float] = field(default_factory=dict)
    messages: dict[str, float] = field(default_factory=dict)
    record_bytes: float | None = None

    def median(self, kind: str) -> float:
        return median(self.us[kind])


class Measured:
    """A running contender."""

    def __init__(self, contender: Contender, server: Started, redis: Started) -> None:
        self.contender = contender
        self.cost = Cost()
        self._server = server
        self._redis = redis
        self._callers = callers()
        self._runs = itertools.count()

    async def warm_up(self) -> None:
        """Fill what is filled once: identities, statements, specialised bytecode."""
        for kind, requests in self._kinds(WARM_UP):
            await self._send(kind, requests)

    async def round(self, count: int) -> None:
        """Measure each kind of request once."""
        for kind, requests in self._kinds(count):
            before_s = self._server.cpu_s()
            await self._send(kind, requests)
            self.cost.us.setdefault(kind, []).append((self._server.cpu_s() - before_s) / count * 1e6)

    async def count(self) -> None:
        """Count round trips, messages and bytes, with one client alone."""
        if self.contender.redis is not None:
            self._ask_redis("FLUSHDB")
        for kind, requests in self._kinds(COUNTED):
            trips, messages = self._reads(), await self._messages()
            body = await self._send(kind, requests, lines=1)
            self.cost.trips[kind] = (self._reads() - trips - 1) / COUNTED
            self.cost.messages[kind] = (await self._messages() - messages) / COUNTED
            if kind == "first" and self.contender.redis is not None:
                self.cost.record_bytes = self._held_bytes() / COUNTED - len(body)

    def _kinds(self, count: int) -> Iterator[tuple[str, list[bytes]]]:
        mine, headers = self.contender, self._callers
        run = f"{next(self._runs)}-{os.getpid()}-{uuid.uuid4()}"

        def posts(path: str, pieces: int, key: Callable[[int], str | None]) -> list[bytes]:
            body = asked(pieces)
            return [post_request(path, headers[i % len(headers)], body, key(i)) for i in range(count)]

        yield "plain", posts(mine.plain, 3, lambda _: None)
        if mine.is_cached:
            yield "cached", [get_request(CACHED, headers[i % len(headers)]) for i in range(count)]
        if mine.name == BARE:
            return
        yield "first", posts(mine.keyed, 3, lambda i: f"{run}-{i}")
        yield "replay", posts(mine.keyed, 3, lambda i: f"{run}-{i}")
        yield "conflict", posts(mine.keyed, 4, lambda i: f"{run}-{i}")

    async def _send(self, kind: str, requests: list[bytes], *, lines: int = 4) -> bytes:
        status, proof = 200, b""
        if kind == "conflict":
            status = self.contender.conflict or 200
        if kind == "replay":
            proof = REPLAYED
        try:
            return await run_requests(self._server.port, requests, status, proof, lines=lines)
        except Exception as error:
            error.add_note(f"{self.contender.name}, {kind}; its server said:\n{self._server.log.read_text()[-2000:]}")
            raise

    async def _messages(self) -> int:
        if not self.contender.needs_postgres:
            return 0
        return int(await run_requests(self._server.port, [get_request(COUNTS, self._callers[0])], 200, lines=1))

    def _reads(self) -> int:
        said = self._ask_redis("INFO", "stats")
        return int(said.partition("total_reads_processed:")[2].split()[0])

    def _held_bytes(self) -> int:
        """Sum MEMORY USAGE over the keys of idempotency, whatever they are called: all but a limit's windows."""
        keys = [line for line in self._ask_redis("KEYS", "*idempotency*").split("\r\n") if "idempotency" in line]
        sizes = (self._ask_redis("MEMORY", "USAGE", key, "SAMPLES", "0") for key in keys)
        return sum(int(size.strip().lstrip(":")) for size in sizes)

    def _ask_redis(self, *words: str) -> str:
        number = str(self.contender.redis or 0)
        with socket.create_connection(("127.0.0.1", self._redis.port), timeout=10) as connection:
            reader = connection.makefile("rb")
            wire = b"".join(_packed(words) for words in (("SELECT", number), words))
            connection.sendall(wire)
            reader.readline()
            return _reply(reader)


def _packed(words: tuple[str, ...]) -> bytes:
    parts = b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words)
    return b"*%d\r\n%b" % (len(words), parts)


def _reply(reader: socket.SocketIO) -> str:  # type: ignore[type-arg]
    line = reader.readline()
    if line[:1] == b"$":
        return reader.read(int(line[1:]) + 2).decode()
    if line[:1] == b"*":
        return "\r\n".join(_reply(reader).rstrip("\r\n") for _ in range(int(line[1:])))
    return line.decode()


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run a Postgres with b1's own table and give its URL."""
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder), say=lambda _: None)
        environment = {"DATABASE_URL": postgres.start()}
        try:
            migrate = [sys.executable, "-m", "b1", "migrate", "--quiet"]
            subprocess.run(migrate, cwd=HERE, env=clean_environment(environment), check=True, stdout=subprocess.DEVNULL)
            yield environment["DATABASE_URL"]
        finally:
            postgres.stop()


def measure(rounds: int, requests: int, *, with_peers: bool) -> dict[str, Cost]:
    """Run all rounds and return the costs by contender."""
    cores = Cores.of_this_process()
    os.sched_setaffinity(0, cores.load)
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(cores))
        url = stack.enter_context(running_postgres())
        running: list[Measured] = []
        for contender in CONTENDERS:
            if contender.is_peer and not with_peers:
                continue
            environment = dict(contender.environment)
            if contender.redis is not None:
                environment["REDIS_URL"] = f"redis://127.0.0.1:{redis.port}/{contender.redis}"
            if contender.needs_postgres:
                environment["DATABASE_URL"] = url
            python = peers_python() if contender.is_peer else Path(sys.executable)
            server = stack.enter_context(running_contender(python, contender.app, environment, cores))
            running.append(Measured(contender, server, redis))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for one in running:
                runner.run(one.warm_up())
            time.sleep(QUIET_S)
            for one in running:
                runner.run(one.count())
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                for one in running:
                    runner.run(one.round(requests))
        return {one.contender.name: one.cost for one in running}


def print_costs(costs: Mapping[str, Cost]) -> None:
    """Print CPU, then what was counted."""
    by_name = {contender.name: contender for contender in CONTENDERS}
    rows, counted = [], []
    for name, cost in costs.items():
        contender = by_name[name]
        if "first" not in cost.us:
            continue
        plain_us = (costs[contender.beside] if contender.beside else cost).median("plain")
        ratio = f"{cost.median('replay') / cost.median('cached'):.2f}" if contender.is_cached else ""
        conflict = f"{cost.median('conflict'):.0f}" if contender.conflict else "not noticed"
        rows.append((
            name, f"{plain_us:.0f}", f"{cost.median('first'):.0f} (+{cost.median('first') - plain_us:.0f})",
            f"{cost.median('replay'):.0f}", conflict, f"{cost.median('cached'):.0f}" if contender.is_cached else "", ratio,
        ))  # fmt: skip
        counted.append((
            name, *(f"{cost.trips[kind] - cost.trips['plain']:.1f}" for kind in ("first", "replay", "conflict")),
            f"{cost.messages['first'] - cost.messages['plain']:+.1f}" if contender.needs_postgres else "",
            f"{cost.messages['replay']:.1f}" if contender.needs_postgres else "",
            "" if cost.record_bytes is None else f"{cost.record_bytes:.0f}",
        ))  # fmt: skip
    print_table(
        (
            "CPU µs per request",
            "without key",
            "first use (added)",
            "replay",
            "conflict",
            "cached GET",
            "replay / cached",
        ),
        rows,
    )
    print_table(
        (
            "counted", "Redis trips: first", "replay", "conflict", "Postgres messages: first, added", "replay",
            "bytes in Redis beyond the body",
        ),
        counted,
    )  # fmt: skip
    print("CPU figures are medians over the rounds. Trips and messages are those that the key adds.\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=300, help="per contender, kind and round")
    parser.add_argument("--no-peers", action="store_true", help="measure without the peers, which need a network once")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    print(machine() + "\n")
    print_costs(measure(arguments.rounds, arguments.requests, with_peers=not arguments.no_peers and _have_peers()))
    return 0


def _have_peers() -> bool:
    try:
        peers_python()
    except CalledProcessError:
        print("The peers could not be installed and are not in the table.\n")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
