"""Instructions per request by callgrind: the slope between 20 and 120 requests in one process without sockets.

Unlike time it does not care what else the machine does: two runs differ by less than a thousandth.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from contenders.document import CACHED_PATH, PATH

from measuring.processes import HERE, clean_environment
from measuring.table import print_table
from measuring.tokens import OUR_ENVIRONMENT

FEW, MANY = 20, 120
RUN_LIMIT_S = 600
_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
CASES = (
    ("bare FastAPI", "contenders.bare:app", PATH),
    ("b1, memory store", "contenders.ours:app", PATH),
    ("b1, memory store, cached", "contenders.ours:app", CACHED_PATH),
)


def print_instructions() -> None:
    """Print the table, or say that valgrind is missing."""
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: instructions were not counted.")
        return
    counted = {name: instructions_per_request(app, path) for name, app, path in CASES}
    bare = counted["bare FastAPI"]
    rows = [(name, f"{value:,.0f}", f"{value / bare:.2f}") for name, value in counted.items()]
    print_table(("contender", "instructions per request", "× bare FastAPI"), rows)


def instructions_per_request(app: str, path: str) -> float:
    """Return the slope."""
    _run([], app, path, 1)  # compiles what is new: that work must not be in one of the two counts alone
    few, many = _instructions(app, path, FEW), _instructions(app, path, MANY)
    return (many - few) / (MANY - FEW)


def _instructions(app: str, path: str, count: int) -> int:
    print(f"callgrind: {app} {path}, {count} requests", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder:
        report = Path(folder) / "callgrind.out"
        _run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={report}"], app, path, count)
        found = _TOTAL.search(report.read_text())
    if found is None:
        raise RuntimeError("callgrind's report has no total")
    return int(found[1])


def _run(before: list[str], app: str, path: str, count: int) -> None:
    command = [*before, sys.executable, "-m", "measuring.drive", app, path, str(count)]
    environment = clean_environment({**OUR_ENVIRONMENT, "PYTHONHASHSEED": "0"})
    subprocess.run(command, cwd=HERE, env=environment, check=True, capture_output=True, timeout=RUN_LIMIT_S)
