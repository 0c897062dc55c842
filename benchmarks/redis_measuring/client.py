"""One client in a process of its own: ``python -m redis_measuring.client NAME``, commanded by lines of JSON.

Memory is read before and after the client's import; CPU time is the whole process's, threads included.
"""

from __future__ import annotations

import asyncio
import json
import ssl  # noqa: F401  # part of what every asyncio program with TLS has already
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from redis_measuring.contenders import CONTENDERS, Contender

PAGE_BYTES = 4096


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def throughput(call: Callable[[], Any], callers: int, seconds: float) -> dict[str, float]:
    """Let the callers call for a while, and count."""
    is_over = False

    async def caller() -> int:
        done = 0
        while not is_over:
            await call()
            done += 1
        return done

    def stop() -> None:
        nonlocal is_over
        is_over = True

    asyncio.get_running_loop().call_later(seconds, stop)
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    done = sum(await asyncio.gather(*(caller() for _ in range(callers))))
    return {"done": done, "s": time.perf_counter() - begun_s, "cpu_s": time.process_time() - cpu_s}


async def latencies(call: Callable[[], Any], callers: int, seconds: float) -> dict[str, float]:
    """As `throughput`, but note how long each call took."""
    until_s = time.perf_counter() + seconds
    took: list[float] = []

    async def caller() -> None:
        begun_s = time.perf_counter()
        while begun_s < until_s:
            await call()
            now_s = time.perf_counter()
            took.append(now_s - begun_s)
            begun_s = now_s

    await asyncio.gather(*(caller() for _ in range(callers)))
    took.sort()
    return {"p50_ms": took[len(took) // 2] * 1000, "p99_ms": took[int(len(took) * 0.99)] * 1000}


async def serve(name: str) -> None:
    asked = await _line()
    contender: Contender = CONTENDERS[name](asked["keys"], asked["arguments"])
    before = rss_bytes()
    contender.load()  # type: ignore[attr-defined]
    _say({"import_bytes": rss_bytes() - before})
    calls: dict[str, Callable[[], Any]] = {
        "GET 100 B": contender.get,
        "SET 1 KB": contender.set,
        "limiter script": contender.run_script,
    }
    while (asked := await _line())["do"] != "end":
        if asked["do"] == "connect":
            await contender.connect(asked["url"], asked["ca"], asked["script"])
            _say({"added_bytes": rss_bytes() - before})
        elif asked["do"] == "close":
            await contender.close()
            _say({})
        else:
            call = calls[asked["work"]]
            for _ in range(20):
                await call()
            answer = await throughput(call, asked["callers"], asked["seconds"])
            _say(answer | await latencies(call, asked["callers"], asked["seconds"] / 2))


async def _line() -> dict[str, Any]:
    # Nothing else runs between two measurements, except a client's own threads and timers, which go on living.
    line = await asyncio.to_thread(sys.stdin.readline)
    return dict(json.loads(line)) if line else {"do": "end"}


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
