"""The race of benchmarks/cache_races.py, small: three processes, and what they share breaks all the time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RACES = Path(__file__).parents[2] / "benchmarks" / "cache_races.py"


def _race(contender: str, reads: int, seed: int) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, RACES, "--json", "--reads", str(reads), "--only", contender]
    done = subprocess.run(
        [*command, "--seed", str(seed), "--every-s", "0.25"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)[0]


@pytest.mark.real
@pytest.mark.parametrize("contender", ["b1, verbs", "b1, Cache"])
def test_no_read_gives_what_was_invalidated_before_it_began(contender: str) -> None:
    code, outcome = _race(contender, 9000, seed=4)
    counts = outcome["counts"]
    broken = {kind: count for kind, count in counts.items() if kind.isupper() or kind.startswith("STALE")}
    assert (code, broken, counts.get("errors", 0)) == (0, {}, 0)
    assert counts["reads"] == 9000
    assert counts["writes"] > 20
    assert sum(outcome["faults"].values()) > 1  # it was a contest
