"""One process's worth of warming, with a clock that moves only while warming sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from b1.cache import L1, Cache
from b1.cache.warming import Conditions, Warming, WarmingOptions, Warmups
from b1.clock import ManualClock
from b1.store.memory import MemoryStore
from b1.types import Principal

LIMIT_BYTES = 4 * 1024 * 1024
ANN = Principal("ann", "1")
BOB = Principal("bob", "1")
_FOR_EVER_S = 1e9  # the tests sweep themselves


class Naps:
    """Sleeps that take no time: the clock moves instead.

    Attributes:
        taken: in seconds, in order.
        on_nap: called with each.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.taken: list[float] = []
        self.on_nap: Callable[[], None] = lambda: None

    async def __call__(self, seconds: float) -> None:
        if seconds >= _FOR_EVER_S:
            await asyncio.Event().wait()
        self.taken.append(seconds)
        self._clock.advance(seconds)
        self.on_nap()
        await asyncio.sleep(0)


class Weather:
    """The conditions, as a test wants them."""

    def __init__(self) -> None:
        self.level = self.queued = 0
        self.is_saturated = self.is_lagging = False

    def set(self, reason: str) -> None:
        self.level, self.queued = int(reason == "memory"), int(reason == "queue")
        self.is_saturated, self.is_lagging = reason == "database", reason == "lag"

    def conditions(self) -> Conditions:
        return Conditions(
            level=lambda: self.level,
            is_saturated=lambda: self.is_saturated,
            queued=lambda: self.queued,
            is_lagging=lambda: self.is_lagging,
        )


class Process:
    """A process: its L1, its cache, its warming."""

    def __init__(
        self, warmups: Warmups | None = None, clock: ManualClock | None = None, *, made: Any = None, **options: Any
    ) -> None:
        self.clock = clock or ManualClock()
        store = MemoryStore(LIMIT_BYTES, self.clock)
        self.l1 = L1(LIMIT_BYTES, self.clock, versions=store.versions)
        self.cache = Cache(self.l1, self.clock, store=store, limit_bytes=LIMIT_BYTES, random=lambda: 0.5)
        self.warmups = warmups or Warmups()
        self.naps = Naps(self.clock)
        self.weather = Weather()
        self.warming = Warming(
            self.warmups,
            self.l1,
            self.clock,
            conditions=self.weather.conditions(),
            options=WarmingOptions(**({"sweep_s": _FOR_EVER_S} | options)),
            sleep=self.naps,
            **(made or {}),
        )

    async def start(self) -> None:
        await self.warming.start()

    async def until_idle(self) -> None:
        await until(lambda: self.warming.state == "idle")

    async def aclose(self) -> None:
        await self.warming.aclose()
        await self.cache.aclose()


@asynccontextmanager
async def process(warmups: Warmups | None = None, *, starts: bool = True, **more: Any) -> AsyncIterator[Process]:
    """A process that has started."""
    made = Process(warmups, **more)
    try:
        if starts:
            await made.start()
        yield made
    finally:
        await made.aclose()


async def until(is_so: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")
