"""One contender in a process of its own: ``python -m limiter_measuring.client NAME``, commanded by lines of JSON.

CPU is the whole process's, threads included. In memory nothing waits, so one task decides in a loop; with Redis 50 callers
do, as many requests do in a worker.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import uvloop

from limiter_measuring.contenders import ALONE, CONTENDERS, FEW, OURS, PLENTY, Contender

CALLERS = 50
_BATCH = 64


async def measure(contender: Contender, whom: Iterator[int], seconds: float, callers: int) -> dict[str, float]:
    """Decide for a while, and count."""
    until_s = time.perf_counter() + seconds

    async def caller() -> int:
        done = 0
        while time.perf_counter() < until_s:
            for _ in range(_BATCH if callers == 1 else 1):
                await contender.decide(next(whom))
                done += 1
        return done

    begun_s, cpu_s = time.perf_counter(), time.process_time()
    done = sum(await asyncio.gather(*(caller() for _ in range(callers))))
    return {"done": done, "s": time.perf_counter() - begun_s, "cpu_s": time.process_time() - cpu_s}


async def _of(name: str, asked: dict[str, Any], quota: int = PLENTY) -> Contender:
    contender: Contender = CONTENDERS[name]()
    await contender.start(asked["url"], asked["policies"], quota)
    return contender


async def run(name: str, asked: dict[str, Any]) -> dict[str, float]:
    """Measure one work."""
    callers = 1 if asked["url"] is None else CALLERS
    keys, seconds = asked["keys"], asked["seconds"]
    contender = await _of(name, asked, FEW if asked["work"] == "attack" else PLENTY)
    try:
        whom = itertools.cycle(range(keys))
        if asked["work"] == "attack":
            for _ in range(40):  # over the quota, and for us over the threshold of offences
                await contender.decide(0)
                await asyncio.sleep(0)
            await _offend(name, contender)
            assert not await contender.decide(0), "the attacker passes"
        elif asked["work"] == "trips":
            for _ in range(asked["count"]):
                await contender.decide(0)
            return {}
        elif asked["work"] == "fill":
            return await _fill(contender, keys)
        else:
            assert await contender.decide(0)
        return await measure(contender, whom, seconds, callers)
    finally:
        await contender.close()


async def _offend(name: str, contender: Contender) -> None:
    """Offences of ours count once a second; an attacker that goes on for longer than the threshold is shut out."""
    if name not in (OURS, ALONE):
        return
    from b1.limiter import Caller

    caller = Caller("203.0.113.9", "user0", "organisation1", "MEMBER", "pro")
    limiter = contender._limiter  # type: ignore[attr-defined]  # the benchmark's own
    await limiter.penalise(caller, strikes=20)


async def _fill(contender: Contender, keys: int) -> dict[str, float]:
    """Return what a caller who calls once takes of this process's memory, as the allocator of Python counts it."""
    for who in range(200):
        await contender.decide(-1 - who)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for who in range(keys):
        await contender.decide(who)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return {"bytes": held / keys}


async def serve(name: str) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await run(name, json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
