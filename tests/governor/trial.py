"""Real memory in a process of its own: `python -m tests.governor.trial NAME` prints what it measured as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from b1.cache import L1
from b1.clock import ManualClock, SystemClock
from b1.governor import Governor, GovernorOptions
from b1.governor.memory import Share, process_bytes, process_share
from b1.governor.meter import MemoryMeter
from b1.host import MemoryLimit
from b1.plan import WATERMARKS
from b1.units import GIB, MIB
from b1.watchdog import WatchdogOptions
from b1.watchdog.heartbeat import Heartbeat

CLOCK = SystemClock()


def governor(limit_bytes: int = 64 * GIB, **options: Any) -> Governor:
    return Governor(
        CLOCK, limit_bytes=limit_bytes, marks=WATERMARKS, interval_s=0.05, options=GovernorOptions(**options)
    )


def heartbeat(interval_s: float) -> Heartbeat:
    return Heartbeat(CLOCK, WatchdogOptions(interval_s=interval_s), on_beat=lambda: None)


def fill(l1: L1, total_bytes: int, smallest: int, largest: int) -> None:
    choose = random.Random(7)
    held = number = 0
    while held < total_bytes:
        value = b"x" * choose.randint(smallest, largest)  # bytes(n) would be pages that nobody has touched
        l1.put(f"key-{number}", value, len(value), ttl_s=600, versions=())
        held += len(value)
        number += 1


async def freed(smallest: int, largest: int, share: float, *, watch_s: float = 0.001) -> dict[str, Any]:
    """Fill a cache with 150 MB of bytes, reclaim a share of it, and see what left the process.

    A monitor that beats every millisecond keeps a hundred numbers during the reclaim, each in a pool of its own that
    then cannot be given back: where values are small it beats as often as in production.
    """
    one, l1 = governor(ballast_bytes=0), L1(400 * MIB, CLOCK)
    one.register(l1)
    empty = process_bytes()
    fill(l1, 150_000_000, smallest, largest)
    before, lag = process_bytes(), heartbeat(watch_s)
    exactly_before = process_share()
    lag.start()
    reclaimed = await one.reclaim(share)
    worst = lag.lag.short().max_s
    lag.stop()
    await one.aclose()
    return {
        "filled": before - empty,
        "evicted": reclaimed.evicted_bytes,
        "left": before - process_bytes(),
        "left_exactly": _exact(exactly_before) - _exact(process_share()),
        "entries": len(l1),
        "steps": {step.name: step.returned_bytes for step in reclaimed.steps},
        "took_ms": {step.name: round(step.took_s * 1000, 1) for step in reclaimed.steps},
        "longest_slice_ms": round(reclaimed.longest_slice_s * 1000, 2),
        "worst_lag_ms": round(worst * 1000, 2),
    }


def _exact(share: Share | None) -> int:
    return share.proportional_bytes if share is not None else 0


async def fragmented() -> dict[str, Any]:
    """A million small objects of which every fiftieth survives: nothing can be given back, and the governor says so."""
    one = governor(limit_bytes=64 * GIB, ballast_bytes=0)
    small: list[Any] = [{"a": number, "b": str(number)} for number in range(1_000_000)]
    small = small[::50]
    before = process_bytes()
    reclaimed = await one.reclaim(1.0)
    await one.aclose()
    return {"before": before, "left": before - process_bytes(), "steps": len(reclaimed.steps), "kept": len(small)}


async def idle(samples: int) -> dict[str, Any]:
    """CPU time of one sample, of both threads, with the reads that are only sometimes due in their proportion."""
    clock = ManualClock()
    one = Governor(clock, limit_bytes=GIB, marks=WATERMARKS, interval_s=0.5)
    await one.sample()
    begun = time.process_time()
    for _ in range(samples):
        clock.advance(0.5)
        await one.sample()
    spent = time.process_time() - begun
    await one.aclose()
    return {"sample_us": spent / samples * 1e6, "share_of_a_core": spent / samples / 0.5}


async def report(objects: int) -> dict[str, Any]:
    """How long writing down what holds the memory keeps the loop from turning."""
    one, lag = governor(ballast_bytes=0, reports_dir=Path(sys.argv[2])), heartbeat(0.001)
    kept = [[number] for number in range(objects)]
    lag.start()
    begun_s = CLOCK.monotonic()
    await one.write_report()
    took_s = CLOCK.monotonic() - begun_s
    worst_s = lag.lag.short().max_s
    lag.stop()
    await one.aclose()
    return {"objects": len(kept), "took_ms": took_s * 1000, "worst_lag_ms": worst_s * 1000}


async def ladder(leak_mib: int, pause_s: float, *, cached_bytes: int) -> dict[str, Any]:
    """Leak inside a control group until the last level, with or without a cache to take from; then let go."""
    one, l1 = governor(limit_bytes=GIB), L1(40 * MIB, CLOCK)
    one.register(l1)
    fill(l1, cached_bytes, 4096, 65536)
    seen: list[str] = []
    irreclaimable: list[str] = []
    one.on_level(lambda _, level, __: seen.append(level.name.lower()))
    one.on_irreclaimable(lambda snapshot: irreclaimable.append(snapshot.level))
    leaked = [bytearray(b"x") * (60 * MIB)]  # the way up to the first level is not what is watched
    one.start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(15):
            while one.snapshot().level != "emergency":
                leaked.append(bytearray(b"x") * (leak_mib * MIB))
                await asyncio.sleep(pause_s)
    await asyncio.sleep(0.3)
    snapshot = one.snapshot()
    leaked.clear()
    while one.snapshot().ratio > 0.6:
        await asyncio.sleep(0.05)
    after = one.snapshot()
    await one.aclose()
    return {
        "levels": seen,
        "irreclaimable": irreclaimable,
        "limit": snapshot.limit_bytes,
        "limit_source": snapshot.limit_source,
        "used_source": snapshot.used_source,
        "ballast": snapshot.ballast_bytes,
        "l1": l1.held_bytes(),
        "reclaims": snapshot.reclaims,
        "ratio_after": after.ratio,
    }


async def live(limit_file: str) -> dict[str, Any]:
    """Change the group's limit while a meter reads it."""
    meter = MemoryMeter(MemoryLimit(GIB, "configured"))
    first = meter.read(0)
    Path(limit_file).write_text(str(96 * MIB))
    unchanged, changed = meter.read(1), meter.read(6)
    return {
        "used": first.used_bytes,
        "used_source": first.used_source,
        "own": process_bytes(),
        "limits": [reading.limit_bytes for reading in (first, unchanged, changed)],
        "source": first.limit_source,
    }


TRIALS = {
    "freed-buffers": lambda: freed(4096, 65536, 1.0),
    "freed-half": lambda: freed(4096, 65536, 0.5),
    "freed-small": lambda: freed(600, 1400, 1.0, watch_s=0.05),
    "freed-small-most": lambda: freed(600, 1400, 0.8, watch_s=0.05),
    "freed-small-half": lambda: freed(600, 1400, 0.5, watch_s=0.05),
    "fragmented": fragmented,
    "idle": lambda: idle(400),
    "ladder-with-cache": lambda: ladder(2, 0.1, cached_bytes=30_000_000),
    "ladder-without": lambda: ladder(2, 0.1, cached_bytes=0),
    "report": lambda: report(1_000_000),
    "live": lambda: live(sys.argv[2]),
}

if __name__ == "__main__":
    print(json.dumps(uvloop.run(TRIALS[sys.argv[1]]())))
