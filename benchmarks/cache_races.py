"""Does a cache serve what was invalidated before the read began, while connections, data and servers are lost?

Three processes with sixteen readers and a writer each, a Redis behind a proxy, and somebody who cuts connections, flushes,
freezes, restarts and fails over to an empty server. A read that began after an invalidation had been told to Redis must not
give an older value; one that was answered while Redis was away may, for a bounded time. The docs say exactly what is
promised: docs/explanation/cache.md. Exits with 1 when b1 breaks it.

``python benchmarks/cache_races.py --reads 500000``; the peers get fewer reads, and need them no more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring.peers_venv
from cache_racing.contenders import AIOCACHE, CACHE, CASHEWS, OURS, VERBS
from cache_racing.faults import Proxy, RedisProcess, Saboteur
from cache_racing.world import PROCESSES, World
from measuring.peers_venv import peers_python
from measuring.processes import HERE, clean_environment
from measuring.table import machine, print_table

measuring.peers_venv.LOCK = HERE / "cache-races-peers.txt"
BROKEN = ("STALE", "STALE OWN", "STALE TOO LONG")
_LIMIT_S = 280.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one contender's race gave, all processes together."""

    name: str
    counts: Counter[str]
    notes: Counter[str]
    faults: Counter[str]
    worst_away_s: float
    took_s: float

    @property
    def is_kept(self) -> bool:
        return not any(self.counts[kind] for kind in BROKEN)


async def race(name: str, options: argparse.Namespace, reads: int) -> Outcome:
    """Race one contender."""
    folder = Path(tempfile.mkdtemp(prefix="b1-races-"))
    try:
        async with _servers(folder) as servers, _proxy(servers[0].port) as proxy:
            return await _race(name, options, reads, folder, servers, proxy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _race(
    name: str, options: argparse.Namespace, reads: int, folder: Path, servers: list[RedisProcess], proxy: Proxy
) -> Outcome:
    world = World(folder / "world")
    url, python = f"redis://127.0.0.1:{proxy.port}/0", sys.executable if name in OURS else str(peers_python())
    began_s = time.monotonic()
    command = [python, "-m", "cache_racing.racer", name, url, str(folder / "world")]
    racers = [
        await asyncio.create_subprocess_exec(
            *command, str(number), str(-(-reads // PROCESSES)), str(options.seed),
            stdout=subprocess.PIPE, cwd=HERE, env=clean_environment({}),
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    saboteur = Saboteur(proxy, servers, options.seed)
    trouble = asyncio.create_task(saboteur.run(options.every_s)) if options.every_s else None
    try:
        async with asyncio.timeout(_LIMIT_S):
            limit_s = options.seconds if name in OURS else options.peer_seconds
            answers = await _answers(racers, world, trouble, limit_s)
    finally:
        if trouble is not None:
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)
        for racer in racers:
            if racer.returncode is None:
                racer.kill()
                await racer.wait()
    counts: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for answer in answers:
        counts.update(answer["counts"])
        notes.update(answer["notes"])
    worst_s = max(answer["worst_away_s"] for answer in answers)
    return Outcome(name, counts, notes, saboteur.done, worst_s, time.monotonic() - began_s)


async def _answers(
    racers: list[asyncio.subprocess.Process], world: World, trouble: asyncio.Task[None] | None, limit_s: float
) -> list[dict[str, Any]]:
    async def answer(racer: asyncio.subprocess.Process) -> dict[str, Any]:
        assert racer.stdout is not None
        line = b""
        async for line in racer.stdout:
            if line.startswith(b"{"):
                return dict(json.loads(line))
        raise RuntimeError(f"a racer ended without an answer; its last line was {line!r}")

    async def watch() -> None:
        # A racer's own reads are over when its reads are used up; the others go on writing until all are.
        began_s = time.monotonic()
        while any(racer.returncode is None for racer in racers):
            await asyncio.sleep(0.1)
            if trouble is not None and trouble.done():
                trouble.result()
            if world.is_done or time.monotonic() - began_s > limit_s:
                world.end()

    watcher = asyncio.create_task(watch())
    try:
        return list(await asyncio.gather(*map(answer, racers)))
    finally:
        world.end()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


@asynccontextmanager
async def _servers(folder: Path) -> AsyncIterator[list[RedisProcess]]:
    servers = [RedisProcess(folder), RedisProcess(folder)]
    try:
        servers[0].start()
        yield servers
    finally:
        for server in servers:
            server.kill()


@asynccontextmanager
async def _proxy(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.aclose()


def print_outcomes(outcomes: list[Outcome]) -> None:
    """Print the tables."""
    rows = [
        [
            one.name, f"{one.counts['reads']:,}", f"{one.counts['writes']:,}", f"{one.counts['loads']:,}",
            f"{one.counts['STALE']:,}", f"{one.counts['STALE OWN']:,}", f"{one.counts['older while away']:,}",
            f"{one.worst_away_s:.2f}", f"{one.counts['errors']:,}", f"{one.took_s:.0f}",
        ]
        for one in outcomes
    ]  # fmt: skip
    head = [
        "", "reads", "writes", "loads", "stale", "stale to the writer", "older while away", "at most, s", "errors", "s",
    ]  # fmt: skip
    print_table(head, rows)
    for one in outcomes:
        how = {kind: one.counts[kind] for kind in sorted(one.counts)}
        print(f"\n{one.name}: {how}; {dict(one.notes)}; faults {dict(one.faults)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reads", type=int, default=60_000, help="of each of ours")
    parser.add_argument("--peer-reads", type=int, default=20_000, help="of each peer")
    parser.add_argument("--every-s", type=float, default=0.7, help="between two faults, on average; 0: none")
    parser.add_argument("--seconds", type=float, default=200.0, help="after which a race ends with fewer reads")
    parser.add_argument("--peer-seconds", type=float, default=40.0, help="the same, for a peer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[VERBS, CACHE, CASHEWS, AIOCACHE], action="append")
    parser.add_argument("--json", action="store_true", help="the counts alone, for a test")
    options = parser.parse_args()
    names = options.only or [VERBS, CACHE, CASHEWS, AIOCACHE]
    outcomes = []
    for name in names:
        outcomes.append(asyncio.run(race(name, options, options.reads if name in OURS else options.peer_reads)))
        if not options.json:
            print(f"{name}: {outcomes[-1].counts['reads']} reads", file=sys.stderr)
    if options.json:
        print(json.dumps([{"name": one.name, "counts": one.counts, "faults": one.faults} for one in outcomes]))
    else:
        print(machine() + "\n")
        print_outcomes(outcomes)
    return 0 if all(one.is_kept for one in outcomes if one.name in OURS) else 1


if __name__ == "__main__":
    sys.exit(main())
