"""The fixed workload against one server after the other: hit rate, statements, latency, memory; and is anything stale?

Each cell is a fresh server on a fresh table: the workload from cold; a read of every entity that was not asked for yet,
which is the long run in a few seconds; the workload until the cache has settled; and once more for the tables. In the end
the written entities and others by chance are read again and held against the database.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import traceback
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import asyncpg
import psutil
import uvloop
from measuring.load import UnexpectedAnswer
from measuring.processes import Cores, Started, running_contender, running_redis
from measuring.tokens import OUR_ENVIRONMENT

from b1.clock import SystemClock
from b1.identity import Tokens
from b1.settings import Secret
from caching.database import Counter, Counts, fill, running_postgres
from caching.entity import ANSWER, BYTES, DATA, PLAIN
from caching.replay import Replay, Replayed
from caching.workload import ENTITIES, ORGANIZATIONS, SEED, Documents, Operation, operations

MIB = 1024 * 1024
CONNECTIONS = 4
SAMPLE = 1000  # entities that are read in the end beside the written ones
_MARKS = {
    PLAIN: (b"", b""),
    DATA: (b"", b"x-loaded"),
    BYTES: (b"", b"x-loaded"),
    ANSWER: (b"cache-status: b1; hit", b"cache-status: b1; fwd"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One server and one way of answering.

    Attributes:
        cache_mib: the limit of the in-process cache; 0: none is used.
    """

    name: str
    app: str
    way: str
    has_redis: bool = False
    cache_mib: int = 0

    @property
    def is_ours(self) -> bool:
        return self.app == "caching.ours:app"


_OURS = "caching.ours:app"
BASE, BASE_REDIS = "b1, no cache", "b1, no cache, Redis"  # its limiter makes a trip for each request
CELLS = (
    Cell("FastAPI and asyncpg", "caching.bare:app", PLAIN),
    Cell(BASE, _OURS, PLAIN),
    Cell(BASE_REDIS, _OURS, PLAIN, has_redis=True),
    *(
        Cell(f"b1, {what}, {'Redis' if has_redis else 'memory'}, {mib} MiB", _OURS, way, has_redis, mib)
        for has_redis in (False, True)
        for mib in (64, 16)
        for what, way in (("data", DATA), ("answers", ANSWER))
    ),
    Cell("b1, data as bytes, Redis, 64 MiB", _OURS, BYTES, has_redis=True, cache_mib=64),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one cell gave.

    Attributes:
        cold, warm: the workload from nothing, and when every entity had been read.
        asked, asked_cold: of the database in these.
        compared: entities whose last answer equals the database's row; `is_same`: by checksum.
        rss: of the worker, bytes: before the first request and after the last.
        accounted: bytes of the in-process cache, by its own account; of how many entries.
    """

    cold: Replayed
    warm: Replayed
    asked_cold: Counts
    asked: Counts
    compared: int
    is_same: bool
    stale: int
    rss: tuple[int, int]
    accounted: int
    entries: int
    cpu_us: float
    redis_bytes: int


class Workload:
    """Runs cells, one server at a time."""

    def __init__(self, url: str, cores: Cores, redis: Started, counts: tuple[int, int]) -> None:
        self._url = url
        self._cores = cores
        self._redis = redis
        self._cold, self._measured = counts
        self._documents = Documents()
        self._counter = Counter(url)
        self._headers = [_header(number) for number in range(ORGANIZATIONS)]

    async def measure(self, cell: Cell) -> Figures:
        await fill(self._url, self._documents)
        self._flush()
        environment = {"DATABASE_URL": self._url}
        if cell.is_ours:
            environment |= {**OUR_ENVIRONMENT, "B1_LIMIT_SCALE": "1000000"}
            if cell.has_redis:
                environment["REDIS_URL"] = f"redis://127.0.0.1:{self._redis.port}/0"
            if cell.cache_mib:
                environment["B1_CACHE_MAX"] = f"{cell.cache_mib}MiB"
        kind = "b1" if cell.is_ours else "uvicorn"
        with running_contender(Path(sys.executable), cell.app, environment, self._cores, kind) as server:
            try:
                return await self._replayed(cell, server)
            except Exception as error:
                error.add_note(f"measuring {cell.name}; its server said:\n{server.log.read_text()[-3000:]}")
                raise

    async def _replayed(self, cell: Cell, server: Started) -> Figures:
        hit, loaded = _MARKS[cell.way]
        replay = Replay(self._documents, self._headers, cell.way, hit=hit, loaded=loaded)
        await replay.run(server.port, [Operation(0, False)] * 100, 1)
        resident = psutil.Process(server.pid).memory_info().rss
        before = await self._counter.counts()
        first = operations(self._cold if cell.cache_mib else self._measured // 10, seed=SEED)
        cold = await replay.run(server.port, first, CONNECTIONS)
        asked_cold = (await self._counter.counts()).since(before)
        stale = cold.stale
        if cell.cache_mib:
            seen = {one.entity for one in first}
            rest = [Operation(entity, False) for entity in range(ENTITIES - 1, -1, -1) if entity not in seen]
            stale += (await replay.run(server.port, rest, CONNECTIONS)).stale
            settling = operations(self._measured // 2, seed=SEED + 2)  # the sweep has pushed out what is wanted
            stale += (await replay.run(server.port, settling, CONNECTIONS)).stale
        before, cpu_s = await self._counter.counts(), server.cpu_s()
        warm = await replay.run(server.port, operations(self._measured, seed=SEED + 1), CONNECTIONS)
        cpu_us = (server.cpu_s() - cpu_s) / self._measured * 1e6
        await asyncio.sleep(0.5)  # what is done behind the answers
        asked = (await self._counter.counts()).since(before)
        rss = resident, psutil.Process(server.pid).memory_info().rss
        accounted, entries = _cache_bytes(server.port) if cell.is_ours else (0, 0)
        compared, is_same = await self._compare(cell, replay, server)
        return Figures(
            cold, warm, asked_cold, asked, compared, is_same, stale + warm.stale, rss, accounted, entries, cpu_us,
            self._redis_bytes() if cell.has_redis else 0,
        )  # fmt: skip

    async def _compare(self, cell: Cell, replay: Replay, server: Started) -> tuple[int, bool]:
        """Read what was written, and others, once more; compare checksums with the rows in the database."""
        written = {entity for entity, revision in enumerate(replay.revisions) if revision}
        entities = sorted(written | set(random.Random(SEED).sample(range(ENTITIES), SAMPLE)))
        sums = Checksums()
        replay.answered = sums.add
        await replay.run(server.port, [Operation(entity, False) for entity in entities], 1)
        connection = await asyncpg.connect(self._url)
        try:
            rows = await connection.fetch("SELECT id, revision, lines FROM entities WHERE id = ANY($1)", entities)
        finally:
            await connection.close()
        expected = Checksums()
        for row in sorted(rows, key=lambda row: row["id"]):
            expected.add(row["id"], row["revision"], b'"lines":%b}' % row["lines"].encode())
        return len(entities), sums == expected

    def _flush(self) -> None:
        _redis_call(self._redis.port, b"FLUSHALL\r\n")

    def _redis_bytes(self) -> int:
        text = _redis_call(self._redis.port, b"INFO memory\r\n")
        return int(text.split("used_memory:")[1].split()[0])


@dataclass(slots=True)
class Checksums:
    """One number over many documents, in order."""

    value: int = 0

    def add(self, entity: int, revision: int, tail: bytes) -> None:
        self.value = zlib.crc32(b"%d %d " % (entity, revision) + tail, self.value)


def _redis_call(port: int, command: bytes) -> str:
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(command)
        return connection.recv(65_536).decode()


def _cache_bytes(port: int) -> tuple[int, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/internal/cache-stats", timeout=10) as answer:
        stats = json.load(answer)
    return int(stats["bytes"]["accounted"]), int(stats["entries"])


def _header(number: int) -> bytes:
    tokens = Tokens(Secret(OUR_ENVIRONMENT["AUTH_JWT_SECRET"]), SystemClock())
    claims = {"org": str(number + 1), "role": "MEMBER", "tier": "pro"}
    token = tokens.issue(f"caller{number + 1}", claims, ttl_s=3600)
    return b"authorization: Bearer %b\r\nx-organization-id: %d\r\naccept: application/json\r\n\r\n" % (
        token.encode(),
        number + 1,
    )


def run(cells: Sequence[Cell], counts: tuple[int, int]) -> dict[str, Figures]:
    """Measure the cells, in order; one that fails says why and is left out."""
    cores = Cores.of_this_process()
    os.sched_setaffinity(0, cores.load)
    found: dict[str, Figures] = {}
    with running_redis(cores) as redis, running_postgres() as url:
        workload = Workload(url, cores, redis, counts)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for cell in cells:
                print(f"workload: {cell.name}", file=sys.stderr)
                try:
                    found[cell.name] = runner.run(workload.measure(cell))
                except (
                    UnexpectedAnswer,
                    TimeoutError,
                    RuntimeError,
                ):  # what was measured before is printed all the same
                    traceback.print_exc()
    return found


def percentiles_ms(times_s: Sequence[float]) -> tuple[float, float]:
    """Return median and 99th percentile, in milliseconds."""
    if len(times_s) < 2:
        return 0.0, 0.0
    return median(times_s) * 1e3, quantiles(times_s, n=100)[98] * 1e3
