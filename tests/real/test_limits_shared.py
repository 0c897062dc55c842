"""Several instances count on one Redis: together they let through one quota, whatever their clocks say, and when it is lost
no more than the documented bound. Everything here is counted; nothing is timed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI

from b1 import B1, Caller, Policy, PolicyTable, Settings
from b1.clock import Clock, SystemClock
from b1.limiter import Limiter
from b1.link import Link, LinkOptions
from b1.settings import Secret
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.types import ASGIApp
from tests.asgi.raw import call, lifespan
from tests.servers import RedisServer

pytestmark = pytest.mark.real

QUOTA = 60
HOUR_S = 3600  # what passed at the beginning of a test still counts at its end
TABLE = PolicyTable(
    (
        Policy("read", QUOTA, HOUR_S, scope="address"),
        Policy("write", QUOTA, HOUR_S),
        Policy("delete", QUOTA, HOUR_S),
        Policy("public", QUOTA, HOUR_S, scope="address"),
        Policy("health", QUOTA, HOUR_S, scope="address"),
    )
)
ANN = Caller("203.0.113.9", "ann", "1")
SKEW_S = 60.0


class Instance:
    """One running application of its own."""

    def __init__(self, url: str) -> None:
        app = FastAPI()
        self.app: ASGIApp = app
        self.b1 = B1(app, policies=TABLE, settings=Settings(redis_url=Secret(url)))
        self.answers: Counter[int] = Counter()

        @app.get("/")
        async def root() -> None: ...

    @property
    def mode(self) -> str:
        return self.b1.runtime.store.mode

    async def ask(self) -> int:
        status = (await call(self.app, "/")).status
        self.answers[status] += 1
        return status


@asynccontextmanager
async def instances(url: str, count: int = 2) -> AsyncIterator[list[Instance]]:
    async with AsyncExitStack() as stack:
        made = [Instance(url) for _ in range(count)]
        for one in made:
            await stack.enter_async_context(lifespan(one.app))
            await until(lambda one=one: one.mode == "redis")  # type: ignore[misc]
        yield made


def passed(made: list[Instance]) -> int:
    return sum(one.answers[200] for one in made)


async def until(is_true: Callable[[], bool], limit_s: float = 20.0) -> None:
    end_s = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end_s, f"not within {limit_s} s"
        await asyncio.sleep(0.005)


async def test_two_instances_let_through_one_quota(redis_url: str) -> None:
    async with instances(redis_url) as made:
        for _ in range(QUOTA // 3):  # in small bursts: one pipelined batch could take it all
            await asyncio.gather(*(one.ask() for _ in range(3) for one in made))
        assert (QUOTA, QUOTA) == (passed(made), sum(one.answers[429] for one in made))
        assert all(one.answers[200] for one in made)


async def test_a_redis_that_is_killed_in_mid_burst_and_comes_back_empty_costs_the_documented_bound_at_most(
    own_redis: Callable[[], RedisServer],
) -> None:
    server = own_redis()
    async with instances(server.url) as made:
        is_over = False

        async def caller(one: Instance) -> None:
            while not is_over:
                await one.ask()
                await asyncio.sleep(0.02)

        callers = [asyncio.create_task(caller(one)) for one in made for _ in range(3)]
        try:
            await until(lambda: passed(made) >= QUOTA // 3)
            await asyncio.to_thread(server.kill)
            await until(lambda: all(one.mode == "local" for one in made))
            here = [sum(one.answers.values()) for one in made]
            await until(lambda: all(sum(one.answers.values()) > n + 10 for one, n in zip(made, here, strict=True)))
            await asyncio.to_thread(server.start)
            await until(lambda: all(one.mode == "redis" for one in made))
            refused = [one.answers[429] for one in made]
            await until(lambda: all(one.answers[429] > n + 10 for one, n in zip(made, refused, strict=True)))
        finally:
            is_over = True
            await asyncio.gather(*callers)
        # Each process goes on from what Redis had told it; at most once the quota per process passes (limiter.md).
        assert QUOTA <= passed(made) <= len(made) * QUOTA
        assert set().union(*(one.answers for one in made)) == {200, 429}


class SkewedClock:
    """The clock of a host that is wrong."""

    def __init__(self, by_s: float) -> None:
        self._by_s = by_s

    def monotonic(self) -> float:
        return time.monotonic() + self._by_s

    def wall(self) -> float:
        return time.time() + self._by_s


@asynccontextmanager
async def limiter_on(url: str, clock: Clock, slots: Path) -> AsyncIterator[Limiter]:
    link = Link(LinkOptions(url, slots_dir=slots, deadline_s=10))
    store = FallbackStore(RedisStore(link, "skew"), MemoryStore(2**20, clock), clock)
    await link.start()
    try:
        await until(lambda: link.is_up)
        yield Limiter(store, TABLE, clock=clock)
    finally:
        await store.aclose()
        await link.aclose()


async def test_a_clock_that_is_a_minute_wrong_changes_nothing(redis_url: str, tmp_path: Path) -> None:
    clocks: list[Clock] = [SystemClock(), SkewedClock(SKEW_S), SkewedClock(-SKEW_S)]
    async with AsyncExitStack() as stack:
        limiters = [
            await stack.enter_async_context(limiter_on(redis_url, clock, tmp_path / str(number)))
            for number, clock in enumerate(clocks)
        ]
        decisions = await asyncio.gather(
            *(limiter.check(("write",), ANN, blame="nobody") for _ in range(QUOTA) for limiter in limiters)
        )
        assert QUOTA == sum(decision.allowed for decision in decisions)
        looks = [await limiter.check(("write",), ANN, cost=0, commit=False) for limiter in limiters]
        assert {QUOTA} == {look.states[0].used for look in looks}
        # Everybody is told the same moments: the server's.
        assert max(look.now_s for look in looks) - min(look.now_s for look in looks) < SKEW_S / 2
        assert {True} == {0 < look.states[0].reset_s <= HOUR_S + HOUR_S // 60 + 1 for look in looks}
