"""What does the queue in front of three connections cost, whom does it serve, and does anything leak when callers go away?

``python benchmarks/database_queue.py [--rounds N] [--cancellations N] [--only PART…]``: starts a Postgres of its own.
Parts: `throughput` beside asyncpg's pool (as it comes, with its reset between leases, and without), rounds alternating;
`tenants`, one with 200 callers among ten with 10; `waits`, callers at random against the M/M/3 formula; `cancellations`.
Backends are counted by the server (`pg_stat_activity`), in a thread of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import asyncpg
import uvloop
from measuring.table import machine, print_table

from b1.db import Database, DatabaseOptions, Priority
from b1.db.erlang import mean_wait, wait_quantile
from b1.embedded.postgres import EmbeddedPostgres

SMALL = ("SELECT $1::int", (1,))
SCAN = ("SELECT count(*) FROM generate_series(1, $1::int)", (10_000,))
CONNECTIONS = 3
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'b1:%'"
SERVICE_S = 0.02
PARTS = ("throughput", "tenants", "waits", "cancellations")
Ask = Callable[[], Awaitable[Any]]


@dataclass
class Census:
    """Backends of ours, as the server sees them."""

    highest: int = 0
    samples: int = 0


@contextmanager
def census(url: str) -> Iterator[Census]:
    """Count every few milliseconds while the block runs."""
    seen, stop = Census(), threading.Event()

    async def sample() -> None:
        connection = await asyncpg.connect(url)
        while not stop.is_set():
            seen.highest = max(seen.highest, await connection.fetchval(COUNT))
            seen.samples += 1
            await asyncio.sleep(0.005)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(sample()))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


async def drive(ask: Ask, callers: int, total: int) -> tuple[float, float]:
    """Return queries per second and CPU microseconds of this process per query."""
    left = total

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await ask()

    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return total / (time.perf_counter() - wall_s), (time.process_time() - cpu_s) / total * 1e6


async def throughput(url: str, database: Database, rounds: int) -> None:
    async def no_reset(_: object) -> None:
        pass

    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    quick = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=no_reset)
    rows = []
    for name, (query, args), total in (("small", SMALL, 6000), ("scan of 10 000 rows", SCAN, 1200)):

        async def many(query: str = query, args: tuple[int, ...] = args) -> Any:
            return await database.fetchval(query, *args, tenant=str(id(asyncio.current_task()) // 64 % 30))

        contenders: dict[str, Ask] = {
            "asyncpg's pool": lambda query=query, args=args: pool.fetchval(query, *args),
            "the same, no reset": lambda query=query, args=args: quick.fetchval(query, *args),
            "b1": lambda query=query, args=args: database.fetchval(query, *args),
            "b1, 30 tenants": many,
        }
        for callers in (CONNECTIONS, 300):
            found: dict[str, list[tuple[float, float]]] = {each: [] for each in contenders}
            for _ in range(rounds):
                for each, ask in contenders.items():
                    found[each].append(await drive(ask, callers, total))
            for each, values in found.items():
                beside = [
                    median(ours[0] / theirs[0] for ours, theirs in zip(values, found[other], strict=True))
                    for other in ("asyncpg's pool", "the same, no reset")
                ]
                rates, costs = zip(*values, strict=True)
                speed = (f"{median(rates):.0f}", f"{median(costs):.0f}")
                rows.append((f"{name}, {callers} callers", each, *speed, *(f"{ratio:.2f}" for ratio in beside)))
    print_table(("work", "client", "queries/s", "CPU µs/query", "of asyncpg's pool", "of it without reset"), rows)
    await pool.close()
    await quick.close()


async def tenants(url: str, database: Database) -> None:
    """One tenant keeps 200 callers waiting, ten others 10 each."""
    query, args = "SELECT pg_sleep($1)", (0.003,)
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    rows = []
    for client in ("asyncpg's pool", "b1"):
        waits: dict[str, list[float]] = {"flood": [], "others": []}
        end_s = time.perf_counter() + 8

        async def caller(tenant: str, client: str, waits: dict[str, list[float]], end_s: float) -> None:
            while (began_s := time.perf_counter()) < end_s:
                if client == "b1":
                    await database.execute(query, *args, tenant=tenant, timeout_s=30)
                else:
                    await pool.execute(query, *args)
                waits["flood" if tenant == "flood" else "others"].append(time.perf_counter() - began_s)

        names = ["flood"] * 200 + [f"tenant {n % 10}" for n in range(100)]
        await asyncio.gather(*(caller(name, client, waits, end_s) for name in names))
        done = sum(map(len, waits.values()))
        for who, share in (("flood", 1), ("others", 10)):
            times = sorted(waits[who])
            latencies = (f"{value * 1000:.0f}" for value in (median(times), times[int(len(times) * 0.99)]))
            name = "the one with 200" if who == "flood" else "each of ten with 10"
            rows.append((client, name, f"{len(times) / share / done:.1%}", *latencies))
    print_table(("client", "tenant", "share of the answers", "p50 ms", "p99 ms"), rows)
    await pool.close()


async def waits(database: Database) -> None:
    """Poisson arrivals, exponential times: the formula's own world, with Postgres and the loop in it."""
    dice = random.Random(1)
    rows = []
    for utilisation in (0.5, 0.7, 0.8, 0.9):
        waited: list[float] = []
        held: list[float] = []

        async def caller(query_s: float, waited: list[float], held: list[float]) -> None:
            began_s = time.perf_counter()
            async with database.acquire(timeout_s=60) as lease:
                given_s = time.perf_counter()
                await lease.execute("SELECT pg_sleep($1)", query_s)
            waited.append(given_s - began_s)
            held.append(time.perf_counter() - given_s)

        tasks = []
        at_s = time.perf_counter()
        for _ in range(int(utilisation * CONNECTIONS / SERVICE_S * 10)):
            at_s += dice.expovariate(utilisation * CONNECTIONS / SERVICE_S)
            await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
            tasks.append(asyncio.create_task(caller(dice.expovariate(1 / SERVICE_S), waited, held)))
        await asyncio.gather(*tasks)
        service_s = mean(held)
        real = utilisation * service_s / SERVICE_S  # a connection is held a little longer than the query sleeps
        formula = (mean_wait(CONNECTIONS, real), wait_quantile(CONNECTIONS, real, 0.99)) if real < 1 else (0.0, 0.0)
        waited.sort()
        p99_s = waited[int(len(waited) * 0.99)]
        means = (f"{mean(waited) / service_s:.2f}", f"{formula[0]:.2f}")
        rows.append((f"{utilisation:.2f}", f"{real:.2f}", *means, f"{p99_s / service_s:.1f}", f"{formula[1]:.1f}"))
    print_table(("asked for", "utilisation", "mean wait / S", "formula", "p99 wait / S", "formula"), rows)


async def cancellations(url: str, database: Database, count: int) -> None:
    """Cancel callers at random moments: waiting, in a query, in a transaction, between two of them."""
    dice = random.Random(2)
    cancelled = 0

    async def work(n: int) -> None:
        priority: Priority = dice.choice(("critical", "web", "web", "web", "background"))
        async with database.acquire(priority=priority, tenant=f"t{n % 9}", timeout_s=60) as lease:
            if n % 3:
                await lease.fetchval("SELECT pg_sleep(0.002)")
            else:
                async with lease.transaction():
                    await lease.execute("SELECT 1")
                    await lease.execute("SELECT pg_sleep(0.002)")

    began_s = time.perf_counter()
    loop = asyncio.get_running_loop()
    with census(url) as seen:
        while cancelled < count:
            tasks = [asyncio.create_task(work(n)) for n in range(100)]
            for task in tasks:
                loop.call_later(dice.random() * 0.06, task.cancel)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        took_s = time.perf_counter() - began_s
        await asyncio.sleep(1)
    now = database.snapshot()
    left = (now.in_use, now.waiting, database._pool.queue.held)
    numbers = (cancelled, round(took_s), now.counters.cancels, now.counters.lost, *left)
    print_table(
        ("cancellations", "s", "in queries", "lost", "left in use", "left waiting", "left charged", "most backends"),
        [(*map(str, numbers), f"{seen.highest} in {seen.samples} counts")],
    )


async def run(url: str, arguments: argparse.Namespace) -> None:
    print(f"\n{machine()}\n")
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder:
        slots = Path(folder) / "b1" / "slots"
        database = Database(DatabaseOptions(url=url, slots_dir=slots, queue_limit=400, slow_query_s=0))
        await database.start()
        await asyncio.gather(*(database.execute("SELECT pg_sleep(0.05)") for _ in range(CONNECTIONS)))
        if "throughput" in arguments.only:
            await throughput(url, database, arguments.rounds)
        if "tenants" in arguments.only:
            await tenants(url, database)
        if "waits" in arguments.only:
            await waits(database)
        if "cancellations" in arguments.only:
            await cancellations(url, database, arguments.cancellations)
        await database.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cancellations", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder:
        server = EmbeddedPostgres(Path(folder), say=lambda _: None)
        try:
            uvloop.run(run(server.start(), arguments))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
