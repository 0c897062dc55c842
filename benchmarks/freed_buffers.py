"""How much of what the cache evicts under memory pressure really leaves the process?

The real map (`b1.cache.L1`) is filled with values of one size to 150 MB, half of it or all is taken back by the real
reclaim (evict, collect, trim), and resident memory before and after is compared. Each line is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

from measuring.processes import HERE, clean_environment
from measuring.table import machine, print_table

from b1.plan import ALLOCATOR_ENVIRONMENT

SIZES = (1024, 8 * 1024, 64 * 1024)
SHARES = (0.5, 1.0)
FILLED_BYTES = 150_000_000
GOAL_PER_CENT = 90
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Freed:
    """One process: what filling took, what was evicted as the map accounts for it, what left, all in resident bytes."""

    filled_bytes: int
    accounted_bytes: int
    left_bytes: int
    share: float

    @property
    def per_cent(self) -> float:
        """What left, of the resident bytes that the evicted part had taken."""
        return 100 * self.left_bytes / (self.filled_bytes * self.share)


async def measure(size_bytes: int, share: float) -> Freed:
    """Fill, reclaim, compare."""
    from b1.cache import L1
    from b1.clock import SystemClock
    from b1.governor import Governor, GovernorOptions
    from b1.governor.memory import process_bytes
    from b1.plan import WATERMARKS

    clock = SystemClock()
    options = GovernorOptions(ballast_bytes=0)
    governor = Governor(clock, limit_bytes=64 << 30, marks=WATERMARKS, interval_s=1.0, options=options)
    cache = L1(4 * FILLED_BYTES, clock)
    governor.register(cache)
    await governor.reclaim(0.0)  # what the first reclaim imports and starts is not the cache's
    empty = process_bytes()
    for number in range(FILLED_BYTES // size_bytes):
        value = b"x" * size_bytes
        cache.put(f"entity:{number}", value, len(value), ttl_s=600, versions=())
        if number % 1000 == 0:
            await asyncio.sleep(0)
    full = process_bytes()
    evicted = (await governor.reclaim(share)).evicted_bytes
    left = full - process_bytes()
    await governor.aclose()
    return Freed(full - empty, evicted, left, share)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "SHARE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(asdict(asyncio.run(measure(int(arguments.one[0]), float(arguments.one[1]))))))
        return 0
    print(machine() + "\n")
    found = {(size, share): _in_process(size, share) for size in SIZES for share in SHARES}
    rows = [
        (
            f"{size // 1024} KiB",
            *(f"{freed.per_cent:.1f} %" for freed in pair),
            f"{pair[-1].filled_bytes / MIB:.0f}",
        )
        for size in SIZES
        for pair in [[found[size, share] for share in SHARES]]
    ]
    print_table(("values of", "half evicted: left the process", "all evicted: left the process", "filled MiB"), rows)
    is_met = all(freed.per_cent >= GOAL_PER_CENT for freed in found.values())
    print(f"Goal: at least {GOAL_PER_CENT} %, {'met' if is_met else 'NOT met'}.\n")
    return 0


def _in_process(size_bytes: int, share: float) -> Freed:
    command = [sys.executable, "freed_buffers.py", "--one", str(size_bytes), str(share)]
    environment = clean_environment(dict(ALLOCATOR_ENVIRONMENT))
    done = subprocess.run(command, cwd=HERE, env=environment, check=True, capture_output=True, text=True, timeout=120)
    return Freed(**json.loads(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
