"""A worker that is killed, and one that has no memory left: real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from b1.alerts import Alerts
from b1.clock import SystemClock
from tests.alerts.receiver import SECRET, answer, certificate, fast_options, is_authentic, receiving, until
from tests.alerts.receiver import state_dir as state_dir

DOOMED = """
import asyncio, sys
from pathlib import Path
from b1.alerts import AlertOptions, Alerts
from b1.clock import SystemClock

async def main():
    alerts = Alerts(AlertOptions(url=sys.argv[1], secret=sys.argv[2], state_dir=Path(sys.argv[3]), instance="box-1",
                                 allow_private=True, family="one", backoff_first_s=60, backoff_max_s=60), SystemClock())
    await alerts.start()
    alerts.fire("B1MemoryHigh", "warning", "told")
    while not alerts.snapshot().delivered:
        await asyncio.sleep(0.01)
    alerts.fire("B1MemoryCritical", "critical", "not taken")
    while not alerts.snapshot().failed:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.real
async def test_a_killed_workers_alerts_are_told_again_and_ended_by_its_successor(state_dir: Path) -> None:
    async with receiving(answer(204), answer(500)) as receiver:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DOOMED, receiver.url, SECRET, str(state_dir), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        successor = Alerts(fast_options(receiver.url, state_dir=state_dir, settle_s=0.05), SystemClock())
        await successor.start()
        requests = await receiver.wait_for(5)
        await until(lambda: successor.snapshot().waiting == 0)
        await successor.aclose()
    told, refused, again, *ends = requests
    assert (told.said, refused.said) == (("B1MemoryHigh", "firing"), ("B1MemoryCritical", "firing"))
    assert (again.id, again.body) == (refused.id, refused.body)
    assert {end.said for end in ends} == {("B1MemoryHigh", "resolved"), ("B1MemoryCritical", "resolved")}
    assert len({request.id for request in requests}) == 4
    assert all(is_authentic(request, SECRET) for request in requests)


STARVED = """
import asyncio, json, os, resource, sys
from pathlib import Path
from b1.alerts import AlertOptions, Alerts
from b1.clock import SystemClock

def mapped_bytes():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

async def main():
    options = AlertOptions(url=sys.argv[1], secret=sys.argv[2], state_dir=Path(sys.argv[3]), allow_private=True)
    alerts = Alerts(options, SystemClock())
    await alerts.start()
    while not alerts.snapshot().is_owner:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    known = set(sys.modules)
    limit = mapped_bytes() + 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        bytearray(8 * 1024 * 1024)
    except MemoryError:
        pass
    else:
        sys.exit("the limit does not hold")
    alerts.fire("B1MemoryCritical", "critical", "starved", {"bytes": 1, "limit": 1, "level": "emergency"})
    while not alerts.snapshot().delivered:
        await asyncio.sleep(0.01)
    print(json.dumps(sorted(set(sys.modules) - known)), flush=True)
    os._exit(0)  # the loop's own end would need a thread

asyncio.run(main())
"""


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
async def test_an_alert_can_be_sent_when_no_memory_is_left_and_imports_nothing(is_tls: bool, tmp_path: Path) -> None:
    context, pem = certificate(tmp_path, "127.0.0.1")
    async with receiving(tls=context if is_tls else None) as receiver:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STARVED, receiver.url, SECRET, str(tmp_path),
            stdout=subprocess.PIPE, env={**os.environ, "SSL_CERT_FILE": str(pem)},
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, json.loads(said)) == (0, [])
        (request,) = receiver.requests
    assert request.said == ("B1MemoryCritical", "firing")
    assert "B1MemoryCritical" in (tmp_path / "alerts.json").read_text()
