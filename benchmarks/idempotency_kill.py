"""Is every keyed expense made exactly once while everything is killed? Counted from the tables, not from the app.

Clients with keys insist on expenses of the reference app until each has its answer, while the worker is killed at every
point of a request and at random instants, or replaced, and Redis and Postgres are stopped, crashed, frozen and emptied.
The exit code is 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idempotency_measuring.accidents import Accident, cause, counted, schedule
from idempotency_measuring.phones import Order, Phones, orders
from idempotency_measuring.verdict import Verdict, judge
from idempotency_measuring.world import USERS, World, world
from measuring.table import machine, print_table

CLIENTS = (4, 24)
ORDERS_PER_ACCIDENT = 120
MISUSES = 50
CALM_DOWN_S = 240.0
_BEFORE_THE_LAST = 0.85


@dataclass(slots=True)
class Run:
    """What one run gave."""

    verdict: Verdict
    accidents: list[Accident]
    heard: dict[str, int]
    took_s: float

    def as_json(self) -> dict[str, Any]:
        return {
            "broken": self.verdict.broken,
            "verdict": dataclasses.asdict(self.verdict),
            "accidents": counted(self.accidents),
            "heard": self.heard,
            "took_s": self.took_s,
        }


def run(keys: int, seconds: float, accidents: int, seed: int, *, with_redis: bool) -> Run:
    """Run once. No order begins, and no accident happens, after `seconds`; what has begun is seen to its end."""
    chance = random.Random(seed)
    begun_s = time.monotonic()
    with world(with_redis=with_redis) as servers:
        name = f"run-{seed}-{time.time_ns():x}"
        phones = Phones(servers.server.port, servers.tokens(), name, random.Random(seed + 1))
        placed = orders(keys, len(USERS))
        clients = min(max(CLIENTS[0], keys // accidents // 3), CLIENTS[1])  # some orders are left for every accident
        with _placing(phones, placed, clients) as loop:
            happened = list(_accidents(servers, phones, schedule(accidents, chance, with_redis=with_redis), keys,
                                       begun_s + seconds, chance))  # fmt: skip
            phones.is_over = time.monotonic() > begun_s + seconds
            loop.wait()
        placed = [order for order in placed if order.begun_s]
        repeats, misuses = asyncio.run(_afterwards(phones, placed, clients, chance))
        verdict = judge(name, placed, repeats, misuses, happened, servers.postgres)
    return Run(verdict, happened, dict(sorted(phones.heard.items())), time.monotonic() - begun_s)


class _Placing:
    """The phones' loop, in a thread: the accidents need the main one."""

    def __init__(self, phones: Phones, placed: list[Order], clients: int) -> None:
        self._error: BaseException | None = None
        self._work = phones.place(placed, clients)
        self._phones = phones
        self._thread = threading.Thread(target=self._run, name="phones")
        self._thread.start()

    def wait(self) -> None:
        """Wait until every order that began has its answer; raises what ended the phones early."""
        self._thread.join(CALM_DOWN_S)
        if self._thread.is_alive():
            raise TimeoutError("some order is never answered")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._in_time())
        except BaseException as error:
            self._error = error

    async def _in_time(self) -> None:
        placing = asyncio.ensure_future(self._work)
        while not placing.done():
            await asyncio.wait({placing}, timeout=0.2)
            if self._phones.is_abandoned:
                placing.cancel()
        await placing


@contextmanager
def _placing(phones: Phones, placed: list[Order], clients: int) -> Iterator[_Placing]:
    loop = _Placing(phones, placed, clients)
    try:
        yield loop
    except BaseException:
        phones.is_over = phones.is_abandoned = True
        raise


def _accidents(
    servers: World, phones: Phones, names: list[str], keys: int, end_s: float, chance: random.Random
) -> Iterator[Accident]:
    """Cause each accident in the first half of its share of the orders; the next share begins when it is over.

    The last orders are left over: there must be some for the last accident to meet.
    """
    share = keys * _BEFORE_THE_LAST / len(names)

    def go_on() -> None:
        phones.allowed += 1

    for number, name in enumerate(names):
        phones.allowed = max(phones.allowed, round(share * (number + 1)))
        wanted = share * (number + chance.random() / 2)
        while phones.finished < wanted and time.monotonic() < end_s:
            time.sleep(0.01)
        if time.monotonic() >= end_s:
            return
        accident = cause(name, servers, chance, go_on)
        say = f"{phones.finished:6} orders done; {accident.kind}, over after {accident.over_s - accident.begun_s:.1f} s"
        print(say, file=sys.stderr)
        yield accident
    phones.allowed = keys


async def _afterwards(
    phones: Phones, placed: list[Order], clients: int, chance: random.Random
) -> tuple[list[Any], list[Any]]:
    async with asyncio.timeout(CALM_DOWN_S):
        repeats = await phones.repeat(placed, clients)
        misuses = await phones.misuse(chance.sample(placed, min(MISUSES, len(placed))))
    return repeats, misuses


def print_run(done: Run) -> None:
    """Print what happened, what the clients heard, and the verdict."""
    print_table(("accident", "times"), [(name, str(count)) for name, count in counted(done.accidents).items()])
    print_table(("what a client heard", "times"), [(name, f"{count:,}") for name, count in done.heard.items()])
    members = dataclasses.asdict(done.verdict)
    examples = members.pop("examples")
    rows = [(name, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}") for name, value in members.items()]
    print_table(("from the tables and the answers", "count"), rows)
    for example in examples[:20]:
        print(f"- {example}")
    print(f"{done.took_s:.0f} s. " + ("BROKEN: " + "; ".join(done.verdict.broken) if done.verdict.broken else "Kept."))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="no order begins later than this")
    parser.add_argument("--accidents", type=int, help=f"default: one for {ORDERS_PER_ACCIDENT} keys")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the clients' moods, and of order and length of accidents"
    )
    parser.add_argument("--no-redis", action="store_true", help="the worker's own memory instead of Redis")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(machine() + "\n")
    accidents = arguments.accidents or max(1, arguments.keys // ORDERS_PER_ACCIDENT)
    done = run(arguments.keys, arguments.seconds, accidents, arguments.seed, with_redis=not arguments.no_redis)
    print_run(done)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(done.as_json(), indent=2) + "\n")
    return 1 if done.verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
