"""A hundred thousand calls, a third of them cancelled at random moments, through a line that delays, and one that cuts.

`B1_TEST_CALLS` makes the runs longer or shorter.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass

import pytest

from b1.errors import StoreUnavailable
from b1.link import Link
from tests.link.conftest import MakeLink, until
from tests.link.proxy import proxy_before
from tests.servers import RedisServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

# Read while importing: the clean environment of a test has no B1_ names.
CALLS = int(os.environ.get("B1_TEST_CALLS", "100000"))
CALLERS = 200
SIZES = (0, 1, 10, 100, 1000, 16_000, 70_000)
WEIGHTS = (5, 5, 30, 40, 15, 4, 1)


@dataclass
class Tally:
    """What became of the calls."""

    right: int = 0
    wrong: int = 0
    cancelled: int = 0
    failed: int = 0
    longest_s: float = 0.0

    @property
    def total(self) -> int:
        return self.right + self.wrong + self.cancelled + self.failed


async def _ask(link: Link, number: int, random_: random.Random, tally: Tally) -> None:
    mine = b"%d:" % number + b"x" * random_.choices(SIZES, WEIGHTS)[0]
    started_s = time.monotonic()
    call = asyncio.ensure_future(link.call("ECHO", mine))
    if random_.random() < 1 / 3:
        asyncio.get_running_loop().call_later(random_.expovariate(1 / 0.002), call.cancel)
    try:
        answer = await call
    except asyncio.CancelledError:
        tally.cancelled += 1
    except StoreUnavailable:
        tally.failed += 1
    else:
        tally.right += answer == mine
        tally.wrong += answer != mine
    tally.longest_s = max(tally.longest_s, time.monotonic() - started_s)


async def _run(link: Link, calls: int, seed: int) -> Tally:
    tally = Tally()
    numbers = iter(range(calls))

    async def caller(number: int) -> None:
        random_ = random.Random(seed * 1000 + number)
        for turn in numbers:
            await _ask(link, turn, random_, tally)
            if not link.is_up:
                await asyncio.sleep(0.005)

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return tally


async def test_cancelled_calls_cost_no_connection_and_nobody_gets_anothers_answer(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    async with proxy_before(redis_server.port) as proxy:
        proxy.delay_s = 0.002
        link = make_link(proxy.url, deadline_s=30)
        await link.start()
        tally = await _run(link, CALLS, 1)
        assert tally.total == CALLS
        assert (tally.wrong, tally.failed) == (0, 0)
        assert tally.cancelled > CALLS / 5
        assert link.snapshot().connects == proxy.accepted == 1
        await until(lambda: link.snapshot().pending == 0)
        await link.aclose()


async def test_cuts_at_random_leave_no_call_hanging_and_nobody_gets_anothers_answer(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    random_ = random.Random(3)
    async with proxy_before(redis_server.port) as proxy:
        proxy.delay_s = 0.002
        link = make_link(proxy.url, deadline_s=2, backoff_first_s=0.005, backoff_most_s=0.02)
        await link.start()
        proxy.cut = lambda data: random_.randrange(len(data) + 1) if random_.random() < 0.05 else None
        tally = await _run(link, CALLS // 2, 2)
        proxy.cut = None
        assert tally.total == CALLS // 2
        assert tally.wrong == 0
        assert tally.right > 0
        assert tally.failed > 0
        assert tally.longest_s < 2 + 3  # the deadline, and what a busy machine adds
        assert link.snapshot().connects > 3
        await until(lambda: link.is_up)
        await until(lambda: link.snapshot().pending == 0)
        await link.aclose()
