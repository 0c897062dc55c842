"""Does the in-process cache take what it says, give it back, and make the most of it?

Four tables: bytes accounted against private pages; what leaves the process when 75 % of 200 MB are evicted; hit ratios at
equal real bytes; and CPU per call. Each number comes from a process of its own. The peers are told what an entry of theirs
really costs, as measured here first, so that equal bytes are equal for them too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import measuring.peers_venv
from caching_memory.contenders import CONTENDERS, OURS, PLAIN
from caching_memory.traces import NAMES
from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, clean_environment
from measuring.table import machine, print_table

from b1.plan import ALLOCATOR_ENVIRONMENT

measuring.peers_venv.LOCK = HERE / "cache-memory-peers.txt"
MIB = 1024 * 1024
SIZES = (200, 2_000, 20_000, 64_000)
TIMED = (2_000, 64_000)
LIMIT = 64 * MIB
EVICTED_OF, EVICTED = 200_000_000, 0.75
LIMITS = (3 * MIB, 12 * MIB)
GOAL_ACCOUNTED, GOAL_RETURNED = 0.10, 0.90


class Bench:
    """Runs works, each in a process of its own, on the core that serves."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._core = Cores.of_this_process().server
        self._overheads: dict[str, int] = {}

    def run(self, name: str, work: str, **arguments: Any) -> dict[str, float]:
        """Return what a contender found."""
        ours = name in (OURS, PLAIN)
        arguments.setdefault("overhead", self._overheads.get(name, 0))
        done = subprocess.run(
            [
                sys.executable if ours else str(peers_python()),
                "-m",
                "caching_memory.client",
                name,
                work,
                json.dumps(arguments),
            ],
            cwd=HERE,
            env=clean_environment(dict(ALLOCATOR_ENVIRONMENT)),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
            preexec_fn=lambda: os.sched_setaffinity(0, {self._core}),
        )
        return dict(json.loads(done.stdout))

    def weigh(self) -> None:
        """Measure what an entry costs each contender."""
        self._overheads = {name: round(self.run(name, "overhead", overhead=0)["bytes"]) for name in self.names}
        print("### What an entry costs beside its key and value\n")
        print_table(("", "bytes"), [(name, str(held)) for name, held in self._overheads.items()])


def accounting(bench: Bench) -> None:
    """Print what the map says against what it takes."""
    rows, is_met = [], True
    for size in SIZES:
        found = bench.run(OURS, "account", size=size, limit=LIMIT)
        off = [found[said] / found[real] - 1 for said, real in (("said", "full"), ("said_flooded", "flooded"))]
        is_met &= all(abs(one) <= GOAL_ACCOUNTED for one in off)
        rows.append(
            (
                f"{size:,} B",
                *(f"{found[one] / MIB:.1f}" for one in ("said", "full")),
                f"{off[0]:+.1%}",
                *(f"{found[one] / MIB:.1f}" for one in ("said_flooded", "flooded")),
                f"{off[1]:+.1%}",
            )
        )
    print(f"### Accounted against real, limit {LIMIT // MIB} MiB\n")
    head = ("values of", "accounted MiB", "real MiB", "off", "after a flood of keys: accounted", "real", "off")
    print_table(head, rows)
    print(f"Goal: within {GOAL_ACCOUNTED:.0%}, {'met' if is_met else 'NOT met'}.\n")


def giving_back(bench: Bench) -> None:
    """Print what leaves the process."""
    rows, missed = [], []
    for size in SIZES[:-1]:
        row = [f"{size:,} B"]
        for name in bench.names:
            found = bench.run(name, "give_back", size=size, total=EVICTED_OF, share=EVICTED)
            part = found["left"] / (found["filled"] * EVICTED)
            if name == OURS and part < GOAL_RETURNED:
                missed.append(f"{size:,} B")
            row.append(f"{part:.0%} ({found['kept']:.0%}, {found['s']:.2f} s)")
        rows.append(row)
    print(f"### What left the process when {EVICTED:.0%} of {EVICTED_OF / 1e6:.0f} MB of values were evicted\n")
    print(
        "A fifth had been read, here and there. In brackets: how much of that was still there, and how long it took.\n"
    )
    print_table(("values of", *bench.names), rows)
    print(f"Goal: at least {GOAL_RETURNED:.0%}, {'NOT met with ' + ', '.join(missed) if missed else 'met'}.\n")


def hitting(bench: Bench) -> None:
    """Print hit ratios."""
    for limit in LIMITS:
        rows = []
        for trace in NAMES:
            found = [bench.run(name, "hits", trace=trace, limit=limit) for name in bench.names]
            rows.append([trace, *(f"{one['ratio']:.1%} ({one['bytes'] / MIB:.1f})" for one in found)])
        print(f"### Hit ratio at {limit // MIB} MiB (in brackets: the MiB really taken)\n")
        print_table(("trace", *bench.names), rows)


def costing(bench: Bench) -> None:
    """Print CPU per call."""
    rows = []
    for size in TIMED:
        for name in bench.names:
            found = bench.run(name, "speed", size=size)
            rows.append([f"{size:,} B, {name}", *(f"{found[work]:.2f}" for work in ("hit", "miss", "put"))])
    print("### CPU µs per call\n")
    print_table(("values of", "hit", "miss", "new entry in a full map"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", action="store_true", help="b1 and the OrderedDict alone, without the peers")
    options = parser.parse_args()
    bench = Bench([OURS, PLAIN] if options.ours else list(CONTENDERS))
    print(machine() + "\n")
    bench.weigh()
    accounting(bench)
    giving_back(bench)
    hitting(bench)
    costing(bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
