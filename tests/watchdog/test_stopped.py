"""A process that is stopped, as by a closed laptop or a container out of quota, and one killed in the middle of a dump."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import asyncio, json, sys, time
import uvloop
from b1.clock import SystemClock
from b1.watchdog import Watchdog

async def main():
    watchdog = Watchdog(SystemClock())
    watchdog.start()
    await asyncio.sleep(0.2)
    print("ready", flush=True)
    seen = 0
    for _ in range(200):
        await asyncio.sleep(0.05)
        snapshot = watchdog.snapshot()
        if any(cause == "not scheduled" and count for cause, count, _ in snapshot.stalls):
            break
    await watchdog.aclose()
    print(json.dumps([[report.cause, report.where] for report in watchdog.snapshot().reports]))

(uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
"""


@pytest.mark.real
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_stopped_process_was_not_scheduled_and_blames_no_line(loop: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, loop], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert "ready\n" == process.stdout.readline()
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.7)
            os.kill(process.pid, signal.SIGCONT)
            said, wrong = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (0, '[["not scheduled", null]]\n') == (process.returncode, said), wrong
