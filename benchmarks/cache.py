"""What does the cache cost in process, does a stampede load once, and what does it spare a database and its readers?

``python benchmarks/cache.py [--only process|workload|CELL…]``; a cell is the beginning of a row's name of the fixed
workload. Six minutes on a quiet machine. Every answer is held against what it must be; exits with 1 when b1 answered
something stale or something else than the database has.

The fixed workload: 10 000 entities of 200 organisations, wanted by Zipf's law with exponent 1, documents of 200 B to
64 KB (evenly over the logarithm, 112 MB in all), 98 % reads, 2 % writes that invalidate; seeded. The server has a core of
its own; load, Postgres and Redis share the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from subprocess import CalledProcessError

from caching import inprocess, served
from caching.served import BASE, BASE_REDIS, CELLS, CONNECTIONS, MIB, Figures, percentiles_ms
from measuring.table import machine, print_table

GOAL_HITS, GOAL_FEWER, GOAL_FASTER = 0.90, 0.95, 0.80
BUSY = 1.5  # load average from which on figures are not to be published


def _base(name: str, found: dict[str, Figures]) -> Figures | None:
    """Return what a row is compared with: b1 without a cache, on Redis for a row on Redis."""
    return found.get(BASE_REDIS if "Redis" in name else BASE)


def _fewer(found: Figures, base: Figures) -> float:
    """Return the part of the database's queries that is spared, for equally many requests."""
    return 1.0 - found.asked.queries / base.asked.queries


def _faster(found: Figures, base: Figures) -> tuple[float, float]:
    """Return by how much hits are faster than reads without a cache: median and 99th percentile."""
    ours, bare = percentiles_ms(found.warm.hits_s), percentiles_ms(base.warm.misses_s)
    return 1.0 - ours[0] / bare[0], 1.0 - ours[1] / bare[1]


def print_workload(found: dict[str, Figures], measured: int) -> None:
    """Print what the workload gave, beside b1 without a cache."""
    print(f"### The fixed workload: {measured:,} requests over {CONNECTIONS} connections\n")
    rows, memory = [], []
    for name, one in found.items():
        hits, misses = percentiles_ms(one.warm.hits_s), percentiles_ms(one.warm.misses_s)
        base = _base(name, found)
        row = [name, f"{one.warm.hit_rate:.1%}", f"{one.cold.hit_rate:.1%}", f"{one.asked.queries:,}"]
        if one.warm.hits_s and base is not None:
            faster = _faster(one, base)
            row += [f"{_fewer(one, base):.1%}", _times(hits), _times(misses), f"{faster[0]:.0%}, {faster[1]:.0%}"]
        else:
            row += ["-", "-", _times(misses), "-"]
        rows.append([*row, _times(percentiles_ms(one.warm.writes_s)), f"{one.cpu_us:.0f}", f"{one.stale}"])
        memory.append(
            [
                name,
                *(f"{size / MIB:.0f}" for size in one.rss),
                f"{one.accounted / MIB:.1f}",
                f"{one.entries:,}",
                f"{one.redis_bytes / MIB:.0f}" if one.redis_bytes else "-",
                f"{one.compared:,}, {'same' if one.is_same else 'NOT THE SAME'}",
            ]
        )
    head = [
        "", "hit rate", "from cold", "queries", "fewer", "hit, ms", "miss, ms", "hit faster", "write, ms", "CPU µs",
        "stale",
    ]  # fmt: skip
    print_table(head, rows)
    print(
        "Times are median and 99th percentile; *hit faster* compares both with a read of b1 without a cache,\n"
        "on Redis where the row is.\n"
    )
    print("### Memory of the worker, and its last answers against the database\n")
    head = ["", "RSS before, MiB", "after", "L1 accounted, MiB", "entries", "Redis, MiB", "compared"]
    print_table(head, memory)


def _times(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.2f}, {pair[1]:.2f}"


def print_goals(found: dict[str, Figures]) -> None:
    """Print what was aimed at, and what each cell reaches."""
    print("### Goals\n")
    rows = []
    for name, one in found.items():
        base = _base(name, found)
        if not one.warm.hits_s or base is None:
            continue
        reached = (
            (one.warm.hit_rate, GOAL_HITS), (_fewer(one, base), GOAL_FEWER), (_faster(one, base)[0], GOAL_FASTER),
            (_faster(one, base)[1], GOAL_FASTER),
        )  # fmt: skip
        rows.append([name, *(f"{value:.1%}, {'yes' if value >= goal else 'no'}" for value, goal in reached)])
    print_table(["", "hits ≥ 90 %", "queries ≥ 95 % fewer", "median ≥ 80 % faster", "p99 ≥ 80 % faster"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="process, workload, or beginnings of cells"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement in process")
    parser.add_argument("--cold", type=int, default=8_000, help="requests of the workload from cold")
    parser.add_argument("--measured", type=int, default=8_000, help="requests that the tables show")
    options = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    is_busy = os.getloadavg()[0] >= BUSY
    print(machine() + ("\n\n**Taken on a busy machine: not to be published.**\n" if is_busy else "\n"))
    if not options.only or "process" in options.only:
        try:
            inprocess.run(options.rounds)
        except CalledProcessError:
            print("The peers could not be installed and are not in the tables.\n")
    cells = [
        cell
        for cell in CELLS
        if not options.only or "workload" in options.only or cell.name.startswith(tuple(options.only))
    ]
    if not cells:
        return 0
    found = served.run(cells, (options.cold, options.measured))
    print_workload(found, options.measured)
    print_goals(found)
    is_right = all(one.is_same and not one.stale for one in found.values())
    return 0 if is_right and len(found) == len(cells) else 1


if __name__ == "__main__":
    sys.exit(main())
