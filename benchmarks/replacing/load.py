"""The load, in a process of its own: ``python -m replacing.load PORT MIX`` with MIX such as ``{"kept": 24, "fresh": 8}``.

On standard input come lines ``mark SECONDS`` (a signal will be sent at that monotonic time) and ``end``; on standard
output go lines of JSON: the number of answers so far, five times a second, and at the end everything.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import Any

import uvloop

from replacing.clients import KINDS, Client, Load

COUNT_EVERY_S = 0.2
END_LIMIT_S = 35.0


async def run(port: int, mix: dict[str, int]) -> dict[str, Any]:
    """Run all clients until the end is asked for, and return what they saw."""
    load = Load(port)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    begun_s = time.monotonic()
    clients = [
        asyncio.create_task(KINDS[kind](Client(load, kind, number)), name=f"{kind}-{number}")  # type: ignore[arg-type]
        for kind, count in mix.items()
        for number in range(count)
    ]
    counting = asyncio.create_task(_count(load))
    await _obey(orders, load)
    load.is_over = True
    load.announce(0.0)  # wakes those who rest
    ended_s = time.monotonic()
    _, hanging = await asyncio.wait(clients, timeout=END_LIMIT_S)
    counting.cancel()
    for client in hanging:
        client.cancel()
    for client in clients:
        if client.done() and not client.cancelled():
            client.result()  # a bug of ours must not look like a quiet client
    return {
        "took_s": ended_s - begun_s,
        "begun_s": begun_s,
        "answered": load.overall.answered,
        "workers": sorted(load.overall.workers - {0}),
        "longest_pause_s": load.overall.longest_pause_s,
        "paused_at_s": load.overall.paused_at_s,
        "hanging": [client.get_name() for client in hanging],
        "tallies": {kind: tally.as_json() for kind, tally in load.tallies.items()},
    }


async def _obey(orders: asyncio.StreamReader, load: Load) -> None:
    while line := (await orders.readline()).split():
        if line[0] == b"end":
            return
        load.announce(float(line[1]))


async def _count(load: Load) -> None:
    while True:
        _say({"answered": load.overall.answered, "workers": len(load.overall.workers - {0})})
        await asyncio.sleep(COUNT_EVERY_S)


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def main(port: str, mix: str) -> None:
    gc.freeze()  # a collection of ours would look like a pause of the server
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        _say(runner.run(run(int(port), json.loads(mix))))


if __name__ == "__main__":
    main(*sys.argv[1:])
