"""What does the watchdog cost a process that does nothing else, and does it ever report a stall that was none?

    python benchmarks/watchdog_cost.py              CPU time of an idle loop with and without the watchdog, 30 s each
    python benchmarks/watchdog_cost.py --soak 600   ten minutes of harmless work; every report with a line is a false one

Without the watchdog the loop still beats, since its lag was measured before: the difference is the thread, the CPU clocks
and the timer of the dumps. A process that sleeps is shown beside them. CPU time is the kernel's own account of the
process, so a busy machine changes it little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from measuring.table import machine, print_table

from b1.clock import SystemClock
from b1.watchdog import Watchdog, WatchdogOptions

HERE = Path(__file__).parents[1]
GOAL_PER_CENT = 0.5
WARM_UP_S = 1.0


async def idle(what: str, seconds: float) -> float:
    """Return the share of a core that an idle loop used, in per cent."""
    watchdog = Watchdog(SystemClock(), WatchdogOptions(dumps=what != "watchdog without dumps"))
    if what.startswith("watchdog"):
        watchdog.start()
    elif what == "heartbeat":
        _beat(asyncio.get_running_loop())
    await asyncio.sleep(WARM_UP_S)
    before_s, began_s = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    share = (time.process_time() - before_s) / (time.monotonic() - began_s) * 100
    await watchdog.aclose()
    return share


def _beat(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(0.05, _beat, loop)


def measured(what: str, seconds: float) -> float:
    """Return the same, of a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--idle", what, "--seconds", str(seconds)],
        cwd=HERE,
        env={"PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout))


async def soak(seconds: float) -> list[dict[str, Any]]:
    """Do what a healthy service does: short callbacks, coroutines, threads, garbage. Return every report."""
    watchdog = Watchdog(SystemClock())
    watchdog.start()
    draw, keep, end_s = random.Random(1), [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        await asyncio.gather(*(_request(draw) for _ in range(draw.randrange(20))))
        keep = [[number] for number in range(draw.randrange(20_000))]
        if draw.random() < 0.05:
            await asyncio.to_thread(time.sleep, 0.3)
        if draw.random() < 0.05:
            await asyncio.to_thread(sorted, [draw.random() for _ in range(len(keep))])
        await asyncio.sleep(draw.random() * 0.02)
    snapshot = watchdog.snapshot()
    await watchdog.aclose()
    print(f"p99 {snapshot.lag_minute.p99_s * 1000:.1f} ms, utilisation {snapshot.utilisation:.0%}")
    print("stalls by cause:", {cause: count for cause, count, _ in snapshot.stalls if count} or "none")
    return [{"cause": r.cause, "where": r.where, "worst_s": r.worst_s, "stack": r.stack} for r in snapshot.reports]


async def _request(draw: random.Random) -> None:
    for _ in range(draw.randrange(5)):
        await asyncio.sleep(draw.random() * 0.01)
        Counter(str(number) for number in range(draw.randrange(2000)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--soak", type=float, metavar="S", help="look for false reports instead")
    parser.add_argument("--idle", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.idle:
        print(json.dumps(uvloop.run(idle(arguments.idle, arguments.seconds))))
        return
    if arguments.soak:
        reports = uvloop.run(soak(arguments.soak))
        false = [report for report in reports if report["where"]]
        print(json.dumps(reports, indent=1))
        print(f"{arguments.soak:g} s, {len(false)} false reports")
        raise SystemExit(1 if false else 0)
    names = ("nothing", "heartbeat", "watchdog without dumps", "watchdog")
    shares = {name: measured(name, arguments.seconds) for name in names}
    print(machine())
    rows = [[name, f"{share:.3f} %", f"{share - shares['nothing']:.3f} %"] for name, share in shares.items()]
    print_table(["an idle loop with", "of a core", "above nothing"], rows)
    print(f"goal: below {GOAL_PER_CENT} %")


if __name__ == "__main__":
    main()
