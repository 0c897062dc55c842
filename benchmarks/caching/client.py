"""One contender in a process of its own: ``python -m caching.client NAME URL``, commanded by lines of JSON.

Each answer is held against the number that was asked for, so that nobody can answer with nothing. CPU is the whole
process's, threads included, until what goes on behind the answers is over.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import uvloop

from caching.contenders import Contender, make

CALLERS = 50
KEYS = 1000
MANY = 100
SETTLE_S = 0.05
LOAD_S = 0.05  # of the stampede's loader
LIMIT_S = 60.0
Ask = dict[str, Any]


class Source:
    """What is cached: an account of about 1 KB, and how often it was asked for."""

    def __init__(self) -> None:
        self.loads = 0
        self.takes_s = 0.0

    async def load(self, number: int) -> dict[str, Any]:
        self.loads += 1
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
        entries = [{"code": str(1000 + line), "name": "Accounts receivable", "cents": line * 101} for line in range(15)]
        return {"id": number, "currency": "EUR", "entries": entries}


def check(number: int, value: Any) -> None:
    if value["id"] != number or len(value["entries"]) != 15:
        raise AssertionError(f"asked for {number}, got {value!r}")


class Redis:
    """A look at the server from outside, over a connection of its own."""

    def __init__(self, url: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10)

    def reads(self) -> int:
        """Return how often the server has read from a connection."""
        return int(self._call(b"INFO stats\r\n").split("total_reads_processed:")[1].split()[0])

    def connections(self) -> int:
        """Return how many connections others have."""
        return int(self._call(b"INFO clients\r\n").split("connected_clients:")[1].split()[0]) - 1

    def flush(self) -> None:
        self._call(b"FLUSHALL\r\n")

    def _call(self, command: bytes) -> str:
        self._connection.sendall(command)
        return self._connection.recv(65_536).decode()


@asynccontextmanager
async def running(name: str, url: str, source: Source) -> Any:
    """Start a contender with nothing in its memory."""
    contender = make(name, url, source.load)
    await contender.start()
    try:
        yield contender
    finally:
        await contender.aclose()


async def hammered(callers: int, one: Callable[[int], Awaitable[None]], turns: Iterator[int]) -> None:
    """Take all turns, so many at a time."""

    async def caller() -> None:
        for number in turns:
            await one(number)

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(caller() for _ in range(callers)))


async def measure(name: str, url: str, ask: Ask) -> dict[str, float]:
    """Run one work and return CPU microseconds, loads, round trips (by one caller alone) and connections."""
    work, count, callers = ask["work"], ask["count"], ask["callers"]
    source, redis = Source(), Redis(url)
    redis.flush()
    keys = MANY if work.startswith("many") else KEYS if work == "hit" else count
    if work != "miss":
        async with running(name, url, source) as contender:
            await contender.fill(range(keys + 1))
            await asyncio.sleep(SETTLE_S)  # what is written behind the answers
            if work in ("hit", "many"):
                return await _timed(contender, source, redis, work, count, callers)
    async with running(name, url, source) as contender:
        await contender.get(keys)  # connections, scripts
        await asyncio.sleep(SETTLE_S)
        return await _timed(contender, source, redis, work, count, callers)


async def _timed(
    contender: Contender, source: Source, redis: Redis, work: str, count: int, callers: int
) -> dict[str, float]:
    async def one(number: int) -> None:
        check(number, await contender.get(number))

    async def many(_: int) -> None:
        for number, value in enumerate(await contender.many(range(MANY))):
            check(number, value)

    if work == "hit":
        turns: Iterator[int] = itertools.islice(itertools.cycle(range(KEYS)), count)
    else:
        turns = iter(range(count))
    source.loads = 0
    reads, cpu_s, begun_s = redis.reads(), time.process_time(), time.perf_counter()
    await hammered(callers, many if work.startswith("many") else one, turns)
    took_s = time.perf_counter() - begun_s
    await asyncio.sleep(SETTLE_S)
    used_s = time.process_time() - cpu_s
    trips = redis.reads() - reads - 1
    per = count * MANY if work.startswith("many") else count
    if source.loads != (count if work == "miss" else 0):
        raise AssertionError(f"{work} loaded {source.loads} times")
    return {
        "cpu_us": used_s / per * 1e6,
        "trips": trips / count,
        "connections": redis.connections(),
        "per_s": per / took_s,
    }


async def stampede(name: str, url: str, ask: Ask) -> dict[str, float]:
    """Ask for one key that is not there, all at once, when the clock says so."""
    source, redis = Source(), Redis(url)
    async with running(name, url, source) as contender:
        await contender.get(-1)  # connections, scripts, specialised bytecode
        source.loads, source.takes_s = 0, LOAD_S
        await asyncio.sleep(max(0.0, ask["at"] - time.time()))
        cpu_s, begun_s = time.process_time(), time.perf_counter()
        async with asyncio.timeout(LIMIT_S):
            answers = await asyncio.gather(*(contender.get(7) for _ in range(ask["count"])))
        took_s = time.perf_counter() - begun_s
        for value in answers:
            check(7, value)
        await asyncio.sleep(SETTLE_S)
        used_s = time.process_time() - cpu_s
        return {
            "loads": source.loads,
            "took_ms": took_s * 1e3,
            "cpu_ms": used_s * 1e3,
            "connections": redis.connections(),
        }


async def serve(name: str, url: str) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        ask = json.loads(line)
        work = stampede if ask["work"] == "stampede" else measure
        print(json.dumps(await work(name, url, ask)), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
