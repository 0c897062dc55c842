"""One contender, one work, in a process of its own: ``python -m caching_memory.client NAME WORK ARGUMENTS`` prints JSON.

Bytes are the process's private pages (resident less shared), so interpreter and libraries are not in the differences.
Keys and values are made anew for each call: a string that the benchmark keeps too would cost the cache nothing.
"""

from __future__ import annotations

import gc
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caching_memory import traces
from caching_memory.contenders import CONTENDERS, READ, Contender, name_of, trim

_POOL = bytes(range(256)) * 1024
_NO_LIMIT = 1 << 40
_ROUNDS = 5


def private_bytes() -> int:
    """Return the pages that are this process's alone."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()


def value_of(number: int, size: int) -> bytes:
    """Return a fresh value: bytes that were written to, and no two the same."""
    return number.to_bytes(8, "big") + _POOL[: size - 8]


def _warmed(name: str, limit: int, overhead: int) -> Contender:
    # What the first use imports and allocates is not the entries'.
    warm = CONTENDERS[name](1 << 20, overhead)
    warm.put("warm", value_of(0, 300))
    warm.get("warm")
    contender = CONTENDERS[name](limit, overhead)
    trim()
    return contender


def _fill(contender: Contender, size: int, total: int) -> None:
    for number in range(total // size):
        contender.put(name_of(number), value_of(number, size))


def overhead(name: str, arguments: dict[str, Any]) -> dict[str, float]:
    """Return what an entry of 1000 B takes beside key and value, in a map that has been full for a while."""
    contender = _warmed(name, 20_000_000, 0)
    before = private_bytes()
    _fill(contender, 1000, 80_000_000)
    grown = private_bytes() - before
    return {"bytes": grown / contender.count() - 1000 - len(name_of(0))}


def account(name: str, arguments: dict[str, Any]) -> dict[str, float]:
    """Fill a map to its limit and beyond; return what it says, what it takes, and the most it ever took."""
    size, limit = arguments["size"], arguments["limit"]
    contender = _warmed(name, limit, arguments["overhead"])
    before = private_bytes()
    _fill(contender, size, int(limit * 0.95))
    full = private_bytes() - before
    said = contender.accounted()
    for number in range(limit // (size + 300)):
        contender.put(f"flood:{number}", value_of(number, size))
    return {"said": said, "full": full, "flooded": private_bytes() - before, "said_flooded": contender.accounted()}


def give_back(name: str, arguments: dict[str, Any]) -> dict[str, float]:
    """Fill, read a fifth here and there, give up a share, and return what left the process."""
    count = arguments["total"] // arguments["size"]
    # Before the first look at the process: what the benchmark itself remembers must not count as the map's.
    READ.update(random.Random(3).sample(range(count), count // 5))
    contender = _warmed(name, _NO_LIMIT if name != "b1" else 2 * arguments["total"], arguments["overhead"])
    before = private_bytes()
    _fill(contender, arguments["size"], arguments["total"])
    for number in READ:
        contender.get(name_of(number))
    full = private_bytes()
    begun_s = time.perf_counter()
    contender.shrink(arguments["share"])
    took_s = time.perf_counter() - begun_s
    left = full - private_bytes()
    kept = sum(contender.get(name_of(number)) is not None for number in READ) / len(READ)
    return {"filled": full - before, "left": left, "s": took_s, "kept": kept, "entries": contender.count() / count}


def hits(name: str, arguments: dict[str, Any]) -> dict[str, float]:
    """Run a trace through a map of so many bytes; return how often it had the answer."""
    sizes, trace = traces.sizes(), traces.trace(arguments["trace"])
    contender = _warmed(name, arguments["limit"], arguments["overhead"])
    before = private_bytes()
    found = 0
    for number in trace:
        key = name_of(number)
        if contender.get(key) is not None:
            found += 1
        else:
            contender.put(key, value_of(number, sizes[number]))
    return {"ratio": found / len(trace), "bytes": private_bytes() - before}


def speed(name: str, arguments: dict[str, Any]) -> dict[str, float]:
    """Return CPU microseconds of a hit, of a miss, and of a new entry in a full map."""
    size, limit = arguments["size"], 32_000_000
    contender = _warmed(name, limit, arguments["overhead"])
    count = min(4000, limit // 2 // (size + 300))
    keys = [name_of(number) for number in range(count)]
    for number, key in enumerate(keys):
        contender.put(key, value_of(number, size))
    works: dict[str, Callable[[int], object]] = {
        "hit": lambda step: contender.get(keys[step % count]),
        "miss": lambda step: contender.get("absent"),
    }
    took = {work: _best(call, 20_000) for work, call in works.items()}
    value, numbers = value_of(1, size), iter(range(count, 10**9))
    for _ in range(limit // (size + 300)):
        contender.put(name_of(next(numbers)), value)
    took["put"] = _best(lambda _: contender.put(name_of(next(numbers)), value), 4000)
    took["name"] = _best(lambda step: name_of(step), 20_000)
    took["nothing"] = _best(lambda step: keys[step % count], 20_000)
    return {
        "hit": took["hit"] - took["nothing"],
        "miss": took["miss"] - took["nothing"],
        "put": took["put"] - took["name"],
    }


def _best(call: Callable[[int], object], count: int) -> float:
    best = float("inf")
    gc.disable()
    for _ in range(_ROUNDS):
        begun_ns = time.thread_time_ns()
        for step in range(count):
            call(step)
        best = min(best, (time.thread_time_ns() - begun_ns) / count / 1000)
    gc.enable()
    return best


WORKS = {"overhead": overhead, "account": account, "give_back": give_back, "hits": hits, "speed": speed}

if __name__ == "__main__":
    print(json.dumps(WORKS[sys.argv[2]](sys.argv[1], json.loads(sys.argv[3]))))
