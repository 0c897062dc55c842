"""A process of its own that reads one key many times at once: ``python -m tests.cache.stampeder URL SLOTS READS MODE``.

It says "ready", waits for a line, reads, and prints how often it loaded and what it read. A load counts itself in Redis,
takes its time, and returns the number: two loads would give two values.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from b1.cache import L1, Cache
from b1.clock import SystemClock
from b1.link import Link, LinkOptions
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore

LOAD_S = 0.2


async def main(url: str, slots: str, reads: int, *, mirrors: bool) -> None:
    clock = SystemClock()
    link = Link(LinkOptions(url, deadline_s=10, connections=3, slots_dir=Path(slots)))
    redis = RedisStore(link, "stampede")
    if mirrors:
        redis.keep_mirror()
    store = FallbackStore(redis, MemoryStore(2**22, clock), clock)
    await link.start()
    # No read is refused because a noisy machine is slow: what is tested is how many loads there are.
    cache = Cache(L1(2**22, clock, versions=store.versions), clock, store=store, limit_bytes=2**22, load_wait_s=30)
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        number = await link.call("INCR", "loads")
        await asyncio.sleep(LOAD_S)
        return int(number)

    while not link.is_up or store.versions.is_exact is not mirrors:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    values = await asyncio.gather(*(cache.get_or_load("hot:key", load, ttl_s=60, tags=("t",)) for _ in range(reads)))
    print(loads, sorted(set(values)), len(values), flush=True)
    await cache.aclose()
    await store.aclose()
    await link.aclose()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), mirrors=sys.argv[4] == "mirror"))
