"""Attacks on memory in a small box: the kernel kills nobody, and who asks for nothing special loses nothing.

These are the benchmark's own cells, shortened; benchmarks/memory_attacks.py makes the whole table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from b1.box.groups import Unavailable
from b1.box.limits import Limits
from b1.box.running import make_group
from b1.units import MIB

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory_attacks.py"
LIMIT_S = 100

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")]


@pytest.fixture(scope="module", autouse=True)
def needs_a_box() -> None:
    """Skip, visibly, where nobody can be limited."""
    try:
        make_group(Path("/"), Limits(64 * MIB, 0, 1.0), pid=os.getpid()).close()
    except Unavailable as reason:
        pytest.skip(f"no control groups: {reason}")


def attacked(attack: str, folder: Path) -> dict[str, Any]:
    """Run one cell against b1 and return what was seen."""
    found = folder / "found.json"
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--only", f"{attack},small,b1", "--no-peers", "--log", "--json", found],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cell: dict[str, Any] = json.loads(found.read_text())[0]
    print(done.stderr)  # shown when an assertion fails
    return cell


def test_a_leak_costs_a_worker_and_no_innocent_request(tmp_path: Path) -> None:
    cell = attacked("leak", tmp_path)
    assert (0, []) == (cell["oomKills"], cell["bad"])
    assert cell["replaced"] >= 1
    assert cell["workers"] >= 2
    assert cell["broken"] == []
