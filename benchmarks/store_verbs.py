"""What does a verb of the store cost? Microseconds in memory, of the server and end to end; bytes per entry.

``python benchmarks/store_verbs.py``: starts a Redis or Valkey of its own. Server time is what the server says of itself
(``INFO commandstats``); end to end is one caller after the other over loopback, which is latency and not throughput.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from b1.clock import SystemClock
from b1.embedded import process
from b1.embedded.binaries import redis_binary
from b1.link import Link, LinkOptions
from b1.store.base import CacheRead, Charge, PenaltyRule
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore

CALLS = 4000
ENTRIES = 5000
HOUR_MS = 3_600_000
RULE = PenaltyRule(threshold=10**9)
TAGS = ("accounts:1", "plan:1", "tenant:1")
CHARGES = [Charge(f"limit:policy{number}:caller", 2**30, HOUR_MS) for number in range(4)]
READ = CacheRead("cache:1:hot", TAGS, 1000)
Verb = Callable[[Any, int], Awaitable[object]]


async def _claim_and_finish(store: Any, number: int) -> None:
    claim = await store.claim(f"idempotency:1:{number}", b"f" * 16, lease_ms=30_000)
    await store.finish(f"idempotency:1:{number}", claim.fence, b"r" * 500, ttl_ms=HOUR_MS)


async def _store(store: Any, _: int) -> None:
    begun = (await store.enter([], read=CacheRead(None, TAGS))).cache
    await store.store_if_unchanged("cache:1:hot", b"v" * 1000, tags=TAGS, vector=begun.vector, ttl_ms=HOUR_MS)


VERBS: dict[str, Verb] = {
    "spend, 1 policy": lambda store, _: store.spend(CHARGES[:1]),
    "spend, 2 policies": lambda store, _: store.spend(CHARGES[:2]),
    "spend, 4 policies": lambda store, _: store.spend(CHARGES),
    "enter, versions of 3 tags + store_if_unchanged 1 KB": _store,
    "enter, 3 policies + hit of 1 KB with 3 tags": lambda store, _: store.enter(CHARGES[:3], read=READ),
    "refund, 2 policies": lambda store, _: store.refund(CHARGES[:2]),
    "invalidate, 3 tags": lambda store, number: store.invalidate([f"a{number}", f"b{number}", f"c{number}"]),
    "claim + finish, 500 B": _claim_and_finish,
    "penalise": lambda store, number: store.penalise(f"penalty:{number % 1000}", RULE),
    "append, 200 B": lambda store, _: store.append("events:1", b"e" * 200, keep=500, keep_bytes=10**6, ttl_ms=HOUR_MS),
    "read_since, 10 of 500": lambda store, _: store.read_since("events:1", 0, limit=10),
}


async def _microseconds(store: Any, verb: Verb) -> float:
    """Return the wall time of one call, the best of three runs: the others were disturbed."""
    numbers, best_s = itertools.count(), float("inf")
    for _ in range(3):
        started_s = time.perf_counter()
        for _ in range(CALLS // 3):
            await verb(store, next(numbers))
        best_s = min(best_s, (time.perf_counter() - started_s) / (CALLS // 3))
    return best_s * 1e6


async def _server_microseconds(link: Link, store: Any, verb: Verb) -> float:
    await link.call("CONFIG", "RESETSTAT")
    for number in range(500):
        await verb(store, 10**6 + number)
    stats = (await link.call("INFO", "commandstats")).decode()
    line = next(line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:"))
    usec = int(line.partition("usec=")[2].partition(",")[0])
    return usec / 500


def _bytes_per_entry(fill: Callable[[MemoryStore, int], object], held: Callable[[MemoryStore], int]) -> tuple[int, int]:
    """Return accounted and real bytes of one entry in memory."""
    store = MemoryStore(2**30, SystemClock())
    for number in range(10):
        fill(store, number)
    gc.collect()
    tracemalloc.start()
    before, accounted = tracemalloc.get_traced_memory()[0], held(store)
    for number in range(10, ENTRIES + 10):
        fill(store, number)
    gc.collect()
    real = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return (held(store) - accounted) // ENTRIES, real // ENTRIES


def _fill_entry(store: MemoryStore, number: int) -> None:
    vector = store.entries.read(CacheRead(None, TAGS), 0).vector
    store.entries.store(f"cache:1:{number:032x}", bytes(1000), TAGS, vector, ttl_ms=10**12, now_ms=0)


def _fill_record(store: MemoryStore, number: int) -> None:
    key = f"idempotency:1:{number:032x}"
    claim = store.claims.claim(key, bytes(16), lease_ms=1000, now_ms=0, wall_us=0)
    store.claims.finish(key, claim.fence, bytes(500), ttl_ms=HOUR_MS, now_ms=0)


SIZES: dict[str, tuple[Callable[[MemoryStore, int], object], Callable[[MemoryStore], int]]] = {
    "window of a caller who called once": (
        lambda store, number: store.spend_now([Charge(f"limit:public:{number:032x}", 5, HOUR_MS)]),
        lambda store: store.windows.held_bytes,
    ),
    "record of 500 B": (_fill_record, lambda store: store.claims.held_bytes),
    "cached value of 1000 B, 3 tags": (_fill_entry, lambda store: store.entries.held_bytes),
    "offender": (
        lambda store, number: store.penalise_now(f"penalty:{number:032x}", RULE),
        lambda store: store.offences.held_bytes,
    ),
    "entry of 200 B in a replay ring": (
        lambda store, number: store.streams.append(
            f"events:{number % 50}", bytes(200), keep=10**6, keep_bytes=10**9, ttl_ms=10**9, now_ms=0, wall_us=number
        ),
        lambda store: store.streams.held_bytes,
    ),
}


async def _measure(url: str, folder: Path) -> None:
    clock = SystemClock()
    link = Link(LinkOptions(url, deadline_s=10, slots_dir=folder / "slots"))
    redis = RedisStore(link, "bench")
    await link.start()
    both = FallbackStore(redis, MemoryStore(2**25, clock), clock)
    memory = MemoryStore(2**25, clock)
    print("| verb | memory, µs | server, µs | end to end with the mirror in memory, µs |\n|---|---|---|---|")
    for name, verb in VERBS.items():
        here, there = await _microseconds(memory, verb), await _microseconds(both, verb)
        server = await _server_microseconds(link, redis, verb)
        print(f"| {name} | {here:.1f} | {server:.0f} | {there:.0f} |")
    await both.aclose()
    await link.aclose()


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), process.free_port()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", name]
        with subprocess.Popen([redis_binary(), *options], stdout=subprocess.DEVNULL) as server:
            try:
                if not process.wait_until(lambda: process.can_connect("127.0.0.1", port), limit_s=10):
                    raise SystemExit("the server did not start")
                asyncio.run(_measure(f"redis://127.0.0.1:{port}/0", folder))
            finally:
                server.terminate()
    print("\n| in memory | accounted, B | real, B |\n|---|---|---|")
    for name, (fill, held) in SIZES.items():
        accounted, real = _bytes_per_entry(fill, held)
        print(f"| {name} | {accounted} | {real} |")


if __name__ == "__main__":
    main()
