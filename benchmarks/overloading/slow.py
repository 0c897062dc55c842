"""Clients that cost a server patience and no processor: idle kept connections, and slowloris in the head and in the body.

``python -m overloading.slow PORT IDLE HEADS BODIES BURST_BEGIN BURST_END END`` opens all before the burst, holds them until
the end (moments of the monotonic clock), and prints one line of JSON: how many of each kind the server ended, and when.
Nobody comes back.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from math import inf
from statistics import median
from time import monotonic
from typing import Any

OPEN_AT_ONCE = 50
OPEN_EVERY_S = 0.03
OPEN_BEFORE_S = 1.8  # idle connections live a few seconds only: opened as late as possible
DRIP_EVERY_S = 1.0
OPEN_LIMIT_S = 20.0

HEAD = b"GET /fast HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BODY = b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
WHOLE = HEAD + b"\r\n"
# What is sent first, and what comes drop by drop.
KINDS = {"idle": (WHOLE, b""), "heads": (HEAD, b"X-A: b\r\n"), "bodies": (BODY, b"x")}


class Slow(asyncio.Protocol):
    """One connection."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.first, self.drop = KINDS[kind]
        self.transport: Any = None
        self.opened_s = 0.0
        self.ended_s: float | None = None
        self.status = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.opened_s = monotonic()
        self.transport.write(self.first)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = data[9:12].decode("latin-1")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_s = monotonic()

    def drip(self) -> None:
        if self.ended_s is None and self.drop:
            self.transport.write(self.drop)


async def hold(port: int, counts: dict[str, int], burst_s: tuple[float, float], end_s: float) -> dict[str, Any]:
    """Open all, the idle ones right before the burst; hold them until `end_s`, and return what became of them."""
    everybody: list[Slow] = []
    failed = 0
    for kind, count in counts.items():
        if kind == "idle":
            await asyncio.sleep(max(0.0, burst_s[0] - OPEN_BEFORE_S - monotonic()))
        for _ in range(0, count, OPEN_AT_ONCE):
            began_s = monotonic()
            opened = await asyncio.gather(*(_open(port, kind) for _ in range(OPEN_AT_ONCE)), return_exceptions=True)
            everybody += [one for one in opened if isinstance(one, Slow)]
            failed += sum(isinstance(one, OSError) for one in opened)
            await asyncio.sleep(max(0.0, began_s + OPEN_EVERY_S - monotonic()))
    while (now_s := monotonic()) < end_s:
        for one in everybody:
            one.drip()
        await asyncio.sleep(min(DRIP_EVERY_S, end_s - now_s))
    seen = {kind: _fate([one for one in everybody if one.kind == kind], burst_s) for kind in counts}
    for one in everybody:
        one.transport.abort()
    return {"not opened": failed, **seen}


async def _open(port: int, kind: str) -> Slow:
    async with asyncio.timeout(OPEN_LIMIT_S):
        _, one = await asyncio.get_running_loop().create_connection(lambda: Slow(kind), "127.0.0.1", port)
    return one


def _fate(them: list[Slow], burst_s: tuple[float, float]) -> dict[str, Any]:
    """Return how many were there at the begin and at the end of the burst, and how long those lasted that were ended."""
    lasted = [one.ended_s - one.opened_s for one in them if one.ended_s is not None]
    there = [sum(one.opened_s <= at_s and (one.ended_s or inf) > at_s for one in them) for at_s in burst_s]
    return {
        "there in the burst": there,
        "ended": len(lasted),
        "after_s": [round(figure(lasted), 1) for figure in (min, median, max)] if lasted else None,
        "answers": dict(Counter(one.status or "none" for one in them)),
    }


def main(port: str, idle: str, heads: str, bodies: str, begin_s: str, over_s: str, end_s: str) -> None:
    import uvloop

    counts = {"heads": int(heads), "bodies": int(bodies), "idle": int(idle)}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        fates = runner.run(hold(int(port), counts, (float(begin_s), float(over_s)), float(end_s)))
    print(json.dumps(fates), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
