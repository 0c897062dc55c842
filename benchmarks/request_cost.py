"""What does the whole profile cost per request, in CPU, against bare FastAPI?

CPU per request is the server process's CPU time (user and system, all threads) divided by the requests it answered. The
server has a core of its own, load and Redis share the rest. All contenders run at once and are measured in turn, round
after round, and each ratio is taken against bare FastAPI in the same round: what disturbs the machine disturbs both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from subprocess import CalledProcessError

import uvloop
from contenders.document import CACHED_PATH, PATH
from measuring.instructions import print_instructions
from measuring.load import UnexpectedAnswer, get_request, run_load
from measuring.peers_venv import peers_python
from measuring.processes import Cores, Started, running_contender, running_redis
from measuring.table import machine, print_table, spread
from measuring.tokens import OUR_ENVIRONMENT, callers

BARE = "bare FastAPI"
WARM_UP = 600
LIMITED = b"x-ratelimit-remaining"


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves one or more contenders."""

    app: str
    environment: dict[str, str] = field(default_factory=dict)
    is_peer: bool = False


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the table: a path of a server, and what its answers must carry to count."""

    name: str
    server: str
    path: str = PATH
    proof: bytes = b""


def servers(redis_port: int) -> dict[str, Server]:
    """Return the processes by name. A database each: slowapi's strategies use the same keys for different types."""
    urls = [f"redis://127.0.0.1:{redis_port}/{number}" for number in range(3)]
    fixed = {"REDIS_URL": urls[1], "SLOWAPI_STRATEGY": "fixed-window"}
    moving = {"REDIS_URL": urls[2], "SLOWAPI_STRATEGY": "moving-window"}
    return {
        "raw": Server("contenders.raw:app"),
        "bare": Server("contenders.bare:app"),
        "memory": Server("contenders.ours:app", OUR_ENVIRONMENT),
        "redis": Server("contenders.ours:app", {**OUR_ENVIRONMENT, "REDIS_URL": urls[0]}),
        "peers": Server("contenders.peers:app", fixed, is_peer=True),
        "peers-moving": Server("contenders.peers:app", moving, is_peer=True),
    }


CONTENDERS = (
    Contender("raw ASGI on uvicorn", "raw"),
    Contender(BARE, "bare"),
    Contender("b1, memory store", "memory", PATH, LIMITED),
    Contender("b1, memory store, cached", "memory", CACHED_PATH, b"cache-status: b1; hit"),
    Contender("b1, Redis", "redis", PATH, LIMITED),
    Contender("b1, Redis, cached", "redis", CACHED_PATH, b"cache-status: b1; hit"),
    Contender("peers, fixed window", "peers", PATH, LIMITED),
    Contender("peers, fixed window, cached", "peers", CACHED_PATH, b"x-fastapi-cache: hit"),
    Contender("peers, moving window", "peers-moving", PATH, LIMITED),
    Contender("peers, moving window, cached", "peers-moving", CACHED_PATH, b"x-fastapi-cache: hit"),
)


@dataclass(slots=True)
class Costs:
    """What one contender used in each round, in microseconds per request."""

    server_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)


class Measurement:
    """All servers up, all contenders warm."""

    def __init__(self, started: dict[str, Started], redis: Started, contenders: list[Contender]) -> None:
        self._started = started
        self._redis = redis
        self._callers = callers()
        self.contenders = contenders
        self.costs = {contender.name: Costs() for contender in contenders}

    async def warm_up(self) -> None:
        """Fill what is filled once per caller: identities, cached answers, specialised bytecode."""
        for contender in self.contenders:
            await self._load(contender, WARM_UP, proof=b"")

    async def round(self, requests: int) -> None:
        """Measure each contender once."""
        for contender in self.contenders:
            server = self._started[contender.server]
            server_s, redis_s = server.cpu_s(), self._redis.cpu_s()
            await self._load(contender, requests, proof=contender.proof)
            costs = self.costs[contender.name]
            costs.server_us.append((server.cpu_s() - server_s) / requests * 1e6)
            costs.redis_us.append((self._redis.cpu_s() - redis_s) / requests * 1e6)

    async def _load(self, contender: Contender, count: int, *, proof: bytes) -> None:
        requests = [get_request(contender.path, headers) for headers in self._callers]
        server = self._started[contender.server]
        try:
            await run_load(server.port, requests, count, proof)
        except (UnexpectedAnswer, TimeoutError) as error:
            await asyncio.sleep(0.5)  # its traceback is written after its answer
            error.add_note(f"measuring {contender.name}; its server said:\n{server.log.read_text()[-3000:]}")
            raise


def measure(rounds: int, requests: int, selected: Callable[[Contender], bool]) -> dict[str, Costs]:
    """Run all rounds and return the costs by contender."""
    cores = Cores.of_this_process()
    os.sched_setaffinity(0, cores.load)
    contenders = [contender for contender in CONTENDERS if selected(contender)]
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(cores))
        started = {}
        for name, server in servers(redis.port).items():
            if not any(contender.server == name for contender in contenders):
                continue
            python = peers_python() if server.is_peer else Path(sys.executable)
            started[name] = stack.enter_context(running_contender(python, server.app, server.environment, cores))
        measurement = Measurement(started, redis, contenders)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measurement.warm_up())
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
                runner.run(measurement.round(requests))
        return measurement.costs


def print_costs(costs: dict[str, Costs]) -> None:
    """Print the table; ratios are taken within each round."""
    bare = costs[BARE].server_us
    rows = []
    for name, cost in costs.items():
        ratios = [ours / theirs for ours, theirs in zip(cost.server_us, bare, strict=True)]
        redis_us = median(cost.redis_us)
        rows.append((name, spread(cost.server_us, 0), spread(ratios, 2), f"{redis_us:.0f}" if redis_us >= 1 else "0"))
    print_table(("contender", "CPU µs per request: median (range)", "× bare FastAPI", "Redis's own µs"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000, help="per contender and round")
    parser.add_argument("--no-peers", action="store_true", help="measure without the peers, which need a network once")
    parser.add_argument("--callgrind", action="store_true", help="count instructions instead (valgrind, some minutes)")
    arguments = parser.parse_args()
    print(machine() + "\n")
    if arguments.callgrind:
        print_instructions()
        return 0
    names = {"raw", "bare", "memory", "redis"}
    try:
        if not arguments.no_peers:
            peers_python()
            names |= {"peers", "peers-moving"}
    except CalledProcessError:
        print("The peers could not be installed and are not in the table.\n")
    print_costs(measure(arguments.rounds, arguments.requests, lambda contender: contender.server in names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
