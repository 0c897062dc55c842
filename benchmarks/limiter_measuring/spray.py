"""A million invented addresses, one request each, against a limiter in memory: ``python -m limiter_measuring.spray``.

In a process of its own, with the heap settled as a worker's is. A pause is CPU time of this thread within one decision:
what else the machine does is mostly not in it, a collection of garbage is. Pauses of our own come at the same address in
every run, those of a shared machine do not.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from typing import Any

from b1.clock import SystemClock
from b1.limiter import Caller, Limiter, Policy, PolicyTable
from b1.store.memory import MemoryStore

ADDRESSES = 1_000_000
STORE_BYTES = 32 * 2**20  # the plan's, on a B1
GC_THRESHOLD = 20_000  # the plan's
POLITE = Caller("192.0.2.1")
NAMES = ("public",)


def spray(addresses: int) -> dict[str, Any]:
    """Return what it cost."""
    table = PolicyTable([Policy("public", 15, 3600, scope="address")])
    store = MemoryStore(STORE_BYTES, SystemClock())
    limiter = Limiter(store, table)
    for _ in range(7):
        limiter.check_now(NAMES, POLITE)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now_ns, pauses_ms, worst_held = time.thread_time_ns, {}, 0
    for number in range(addresses):
        caller = _stranger(number)
        started_ns = now_ns()
        limiter.check_now(NAMES, caller)
        took_ms = (now_ns() - started_ns) / 1e6
        if took_ms > 1:
            pauses_ms[number] = took_ms
        if number % 1000 == 0:
            worst_held = max(worst_held, store.snapshot().held_bytes)
    walked = len(gc.get_objects())
    collections_ms = []
    for _ in range(5):
        started_ns = now_ns()
        gc.collect()
        collections_ms.append((now_ns() - started_ns) / 1e6)
    more, begun_ns = addresses // 10, now_ns()
    for number in range(addresses, addresses + more):  # without a clock in between, which costs more than a microsecond
        limiter.check_now(NAMES, _stranger(number))
    cpu_us = (now_ns() - begun_ns) / more / 1000
    first = next(window for key, window in store.windows.items() if key.startswith("limit:public:"))  # the polite one's
    return {
        "cpu_us": cpu_us,
        "held_bytes": worst_held,
        "grown_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * 1024,
        "pauses_ms": pauses_ms,
        "walked": walked,
        "collection_ms": min(collections_ms),
        "polite": first.total,
    }


def _stranger(number: int) -> Caller:
    return Caller(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")


if __name__ == "__main__":
    print(json.dumps(spray(int(sys.argv[1]) if len(sys.argv) > 1 else ADDRESSES)))
