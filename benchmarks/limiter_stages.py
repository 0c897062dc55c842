"""Where does the CPU of a decision of the limiter go, stage by stage, in memory and on Redis?

``python benchmarks/limiter_stages.py``: starts a Redis or Valkey of its own. CPU of this process in microseconds, the best
of many short rounds: what else the machine does stretches most of them, and can shorten none.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from limiter_measuring.contenders import HOUR_S, PLENTY
from measuring.processes import Cores, running_redis
from measuring.table import machine, print_table

from b1.clock import SystemClock
from b1.limiter import Caller, Limiter, Policy, PolicyTable, decision_headers
from b1.limiter.bills import Bills
from b1.link import Link, LinkOptions
from b1.store.base import PenaltyRule
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore

POLICIES = 3
ROUNDS = 12
CALLS = 1000
CALLER = Caller("203.0.113.9", "user0", "organisation1", "MEMBER", "pro")
Call = Callable[[], Awaitable[object]]


def _table(policies: int) -> PolicyTable:
    return PolicyTable(Policy(f"policy{number}", PLENTY, HOUR_S) for number in range(policies))


def _best_us(call: Callable[[], object]) -> float:
    best_ns = float("inf")
    for _ in range(2 * ROUNDS):
        begun_ns = time.process_time_ns()
        for _ in range(CALLS):
            call()
        best_ns = min(best_ns, (time.process_time_ns() - begun_ns) / CALLS)
    return best_ns / 1000


async def _best_of_async_us(call: Call, callers: int) -> float:
    async def caller() -> None:
        for _ in range(CALLS // callers):
            await call()

    best_ns = float("inf")
    for _ in range(ROUNDS):
        begun_ns = time.process_time_ns()
        await asyncio.gather(*(caller() for _ in range(callers)))
        best_ns = min(best_ns, (time.process_time_ns() - begun_ns) / CALLS)
    return best_ns / 1000


def print_memory() -> None:
    """Print what a decision and its headers cost in memory."""
    rows = []
    for policies in (1, 2, 3, 4):
        table = _table(policies)
        names, limiter = tuple(table), Limiter(MemoryStore(2**27, SystemClock()), table)
        decision = limiter.check_now(names, CALLER)
        assert decision is not None
        decided = _best_us(lambda limiter=limiter, names=names: limiter.check_now(names, CALLER))  # type: ignore[misc]
        told = _best_us(lambda decision=decision: decision_headers(decision))  # type: ignore[misc]
        rows.append((str(policies), f"{decided:.1f}", f"{told:.1f}"))
    print("### In memory\n")
    print_table(("policies", "decision", "headers"), rows)


async def print_redis(port: int) -> None:
    """Print what each layer adds on Redis, with one caller and with 50 at once, and what the script costs the server."""
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder:
        link = Link(LinkOptions(f"redis://127.0.0.1:{port}/0", deadline_s=10, slots_dir=Path(folder) / "slots"))
        clock, table = SystemClock(), _table(POLICIES)
        redis = RedisStore(link, "bench")
        await link.start()
        both = FallbackStore(redis, MemoryStore(2**27, clock), clock)
        names, limiter = tuple(table), Limiter(both, table)
        bill = Bills(table, PenaltyRule()).of(names, CALLER, 1, "caller")

        async def whole() -> None:
            decision_headers(await limiter.check(names, CALLER))

        stages: dict[str, Call] = {
            "a trip (PING)": lambda: link.call("PING"),
            "the decision of the store in Redis": lambda: redis.spend(bill.charges, terms=bill.terms),
            "and the mirror in memory": lambda: both.spend(bill.charges, terms=bill.terms),
            "and policies, decision and headers": whole,
        }
        rows = []
        for name, call in stages.items():
            alone, together = await _best_of_async_us(call, 1), await _best_of_async_us(call, 50)
            rows.append((name, f"{alone:.1f}", f"{together:.1f}"))
        await link.call("CONFIG", "RESETSTAT")
        for _ in range(ROUNDS):
            await _best_of_async_us(whole, 50)
        stats = (await link.call("INFO", "commandstats")).decode()
        server_us = stats.partition("cmdstat_evalsha:")[2].partition("usec_per_call=")[2].partition(",")[0]
        await both.aclose()
        await link.aclose()
    print(f"### On Redis, {POLICIES} policies, each row with those above\n")
    print_table(("CPU of this process, µs", "one caller", "50 callers"), rows)
    print(f"The script costs the server {float(server_us):.0f} µs, by its own count.")


def main() -> None:
    """Print both tables."""
    print(machine() + "\n")
    print_memory()
    with running_redis(Cores.of_this_process()) as redis:
        uvloop.run(print_redis(redis.port))


if __name__ == "__main__":
    main()
