"""One cell of the table: light traffic, a burst, light traffic again, with probes all the while, seen by other processes.

The load and the probes are two processes on the cores that do not serve, so that a busy load makes no probe late. Both
begin at one moment of the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import IO, Any

import uvloop
from measuring.load import UnexpectedAnswer, get_request, run_load
from measuring.open_loop import Client, Load
from measuring.processes import HERE, Cores, clean_environment

from overloading.figures import Figures, figures
from overloading.servers import Server

LIGHT = 0.3  # of the capacity, before and after
BEFORE_S, BURST_S, AFTER_S = 1.0, 4.0, 4.0
# After a storm load stays heavy but possible, and clients still come back: a metastable server never recovers.
STORM_LIGHT = 0.7
STORM_AFTER_S = 5.0
RETRIES = 3
LEAD_S = 1.5  # two interpreters start meanwhile
RUN_LIMIT_S = 60.0
PROBES = ("/live", "/ready")
PROBE_EVERY_S = 0.1
CAPACITY_S = 1.0
CAPACITY_RUNS = 4
CAPACITY_CONNECTIONS = 4  # one more than the database has
CALM_LIMIT_S = 30.0
# An idle connection may live five seconds: the burst beside them is shorter.
SLOW_LEAD_S, SLOW_BURST_S = 3.0, 3.0
SLOW_SECONDS = 38.0  # from the burst on, longer than any server's bound that we know
IDLE, SLOW_HEADS, SLOW_BODIES = 2000, 250, 250


@dataclass(frozen=True, slots=True)
class Cell:
    """What is done to a contender.

    Attributes:
        contender: its key.
        multiple: offered load, in capacities.
        is_fresh: a new connection for each request, else kept ones.
        is_storm: refused and unanswered clients come back at once, three times.
        has_slow: idle connections and slow clients stand beside it.
        rounds: how often it is measured.
    """

    contender: str
    route: str
    multiple: float
    is_fresh: bool = True
    is_poisson: bool = True
    is_storm: bool = False
    has_slow: bool = False
    rounds: int = 1

    @property
    def group(self) -> str:
        """The table it belongs to."""
        if self.has_slow:
            return f"slow{self.route}"
        connections = "fresh" if self.is_fresh else "kept"
        return f"{'storm' if self.is_storm else connections}{self.route}"

    @property
    def name(self) -> str:
        """On the command line."""
        return f"{self.contender}:{self.group}:{self.multiple:g}"


def capacity(server: Server, route: str) -> float:
    """Return how many answers a second four connections get that ask again and again; the median of three runs."""
    request = get_request(route, {})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rates = [runner.run(_closed_loop(server.port, request)) for _ in range(CAPACITY_RUNS)]
    return median(rates[1:])  # the first warms up, and b1 learns of the route


async def _closed_loop(port: int, request: bytes) -> float:
    """Refusals are not counted: b1 refuses when the machine, disturbed by others, lets requests grow old."""
    begin_s = time.monotonic()
    end_s = begin_s + CAPACITY_S

    async def ask() -> int:
        good = 0
        _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
        while time.monotonic() < end_s:
            status, _ = await client.ask(request)
            good += status == 200
        client.close()
        return good

    async with asyncio.timeout(CALM_LIMIT_S):
        good = sum(await asyncio.gather(*(ask() for _ in range(CAPACITY_CONNECTIONS))))
    return good / (time.monotonic() - begin_s)


def measure(
    server: Server,
    cell: Cell,
    capacity_per_s: float,
    seed: int,
    *,
    begin_s: float | None = None,
    burst_s: float = BURST_S,
) -> Figures:
    """Run one round of a cell; without `begin_s` as soon as the server is calm."""
    if begin_s is None:
        wait_until_calm(server)
        begin_s = time.monotonic() + LEAD_S
    light = (STORM_LIGHT if cell.is_storm else LIGHT) * capacity_per_s
    after_s = STORM_AFTER_S if cell.is_storm else AFTER_S
    phases = [(LIGHT * capacity_per_s, BEFORE_S), (cell.multiple * capacity_per_s, burst_s), (light, after_s)]
    load = Load(
        port=server.port,
        rate=0.0,
        seconds=0.0,
        paths=[(cell.route, 1.0)],
        phases=phases,
        is_fresh=cell.is_fresh,
        is_poisson=cell.is_poisson,
        retries=RETRIES if cell.is_storm else 0,
        is_stubborn=cell.is_storm,
        begin_s=begin_s,
        seed=seed,
    )
    end_s = BEFORE_S + burst_s + after_s
    probing = Load(
        port=server.port, rate=0.0, seconds=end_s, probes=PROBES, probe_every_s=PROBE_EVERY_S, begin_s=begin_s
    )
    probes = _start(server.cores, "measuring.open_loop", "--spec", spec=probing)
    visitors = _start(server.cores, "measuring.open_loop", "--spec", spec=load)
    core = _core_during(server, begin_s + BEFORE_S, begin_s + BEFORE_S + burst_s)
    seen, probed = _finish(visitors), _finish(probes)
    burst = BEFORE_S, BEFORE_S + burst_s
    return figures(seen["notes"], probed["probe_notes"], burst, end_s, seen["generator_late_ms"], core)


def _core_during(server: Server, begin_s: float, end_s: float) -> tuple[float, float]:
    time.sleep(max(0.0, begin_s - time.monotonic()))
    ran_s, waited_s = server.core_s()
    time.sleep(max(0.0, end_s - time.monotonic()))
    later_ran_s, later_waited_s = server.core_s()
    return later_ran_s - ran_s, later_waited_s - waited_s


def wait_until_calm(server: Server) -> None:
    """Wait until light work is answered at once, five times; go on after half a minute whatever it says."""
    end_s = time.monotonic() + CALM_LIMIT_S
    calm = 0
    request = [get_request("/fast", {})]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while calm < 5 and time.monotonic() < end_s:
            began_s = time.monotonic()
            try:
                runner.run(asyncio.wait_for(run_load(server.port, request, 1), 2.0))
            except (UnexpectedAnswer, OSError):
                calm = 0
            calm = calm + 1 if time.monotonic() - began_s < 0.1 else 0
            time.sleep(0.05)


def measure_beside_slow_clients(
    server: Server, cell: Cell, capacity_per_s: float, seed: int
) -> tuple[Figures, dict[str, Any]]:
    """Run a round with all slow clients there from before the burst to its end; return what became of them too."""
    wait_until_calm(server)
    begin_s = time.monotonic() + SLOW_LEAD_S
    burst_s = begin_s + BEFORE_S
    numbers = (server.port, IDLE, SLOW_HEADS, SLOW_BODIES, burst_s, burst_s + SLOW_BURST_S, burst_s + SLOW_SECONDS)
    slow = _start(server.cores, "overloading.slow", *map(str, numbers))
    try:
        seen = measure(server, cell, capacity_per_s, seed, begin_s=begin_s, burst_s=SLOW_BURST_S)
        return seen, _finish(slow, limit_s=SLOW_SECONDS + RUN_LIMIT_S)
    finally:
        slow.kill()
        slow.wait()


def _start(cores: Cores, *words: str, spec: Load | None = None) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=HERE,
        env=clean_environment({"PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(child.pid, cores.load)
    pipe: IO[str] | None = child.stdin
    assert pipe is not None
    if spec is not None:
        pipe.write(json.dumps(asdict(spec)))
    pipe.close()
    return child


def _finish(child: subprocess.Popen[str], *, limit_s: float = RUN_LIMIT_S) -> dict[str, Any]:
    child.stdin = None  # written and closed; communicate would flush it
    try:
        output, _ = child.communicate(timeout=limit_s)
    finally:
        child.kill()
    if child.returncode:
        raise RuntimeError(f"the load ended with {child.returncode}")
    result: dict[str, Any] = json.loads(output)
    return result
