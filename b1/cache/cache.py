"""One load per key at a time, over the byte-bounded map.

A load that an invalidation overtook still answers the callers that began before it, but its value is not stored.
The vector of tag versions is taken before the load, never after it: that order is the whole guarantee.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import orjson

from b1.buffers import exact
from b1.cache.l1 import L1
from b1.clock import DEADLINE, Clock, remaining
from b1.errors import DeadlineExceeded
from b1.types import Versions

T = TypeVar("T")
Flight = tuple[str, Versions]


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """What the cache says about itself, in accounted bytes. `ceiling_bytes`: the most at the present memory level."""

    enabled: bool
    entries: int
    held_bytes: int
    limit_bytes: int
    hits: int
    misses: int
    loads_running: int
    evictions: dict[str, int]
    ceiling_bytes: int = 0


class Cache:
    """Get-or-load over `L1`.

    Args:
        l1: the map; shared with the response cache.
        enabled: False loads every time and stores nothing.
        load_wait_s: how long a caller waits for somebody else's load of the same key.
        must_not_wait: says whether the caller holds a database lease. Such a caller loads for itself, in its own task
            and lease: the shared load it would wait for may be waiting for that very lease. What it loads is not
            stored, because its transaction may still be rolled back.
    """

    def __init__(
        self,
        l1: L1,
        clock: Clock,
        *,
        limit_bytes: int,
        enabled: bool = True,
        load_wait_s: float = 5.0,
        must_not_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self.l1 = l1
        self._clock = clock
        self._limit_bytes = limit_bytes
        self.enabled = enabled
        self._load_wait_s = load_wait_s
        self._must_not_wait = must_not_wait
        # Guarded by the event loop: written only between awaits. Key and vector together name a load, so that a caller
        # who comes after an invalidation never joins the load that began before it.
        self._running: dict[Flight, asyncio.Task[bytes]] = {}
        self._hits = 0
        self._misses = 0

    def __repr__(self) -> str:
        return f"<Cache entries={len(self.l1)} hits={self._hits} misses={self._misses} running={len(self._running)}>"

    async def get_or_load(
        self, key: str, loader: Callable[[], Awaitable[T]], *, ttl_s: float, tags: Sequence[str] = ()
    ) -> T:
        """Return the cached value, or load it once however many ask.

        Values are stored as JSON bytes and parsed for each caller, so nobody can change what another one reads.

        Raises:
            DeadlineExceeded: somebody else's load took longer than the request's deadline allows.
            TypeError: the loaded value is no JSON value.
        """
        if not self.enabled:
            return await loader()
        entry = self.l1.get(key)
        if entry is not None:
            self._hits += 1
            return orjson.loads(entry.value)  # type: ignore[no-any-return]
        self._misses += 1
        flight = (key, self.l1.versions_of(tags))
        if self._must_not_wait():
            return await loader()
        task = self._running.get(flight) or self._start(flight, loader, ttl_s)
        return orjson.loads(await self._wait(task, key))  # type: ignore[no-any-return]

    def invalidate(self, tags: Iterable[str]) -> None:
        """Make everything stale that carries one of the tags; takes effect at once, also for loads that are running."""
        self.l1.invalidate(tags)

    async def aclose(self) -> None:
        """Cancel the loads that are still running."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def snapshot(self) -> CacheSnapshot:
        """Return numbers; no I/O."""
        return CacheSnapshot(
            enabled=self.enabled,
            entries=len(self.l1),
            held_bytes=self.l1.held_bytes(),
            limit_bytes=self._limit_bytes,
            hits=self._hits,
            misses=self._misses,
            loads_running=len(self._running),
            evictions=dict(self.l1.evictions),
            ceiling_bytes=self.l1.ceiling_bytes,
        )

    def _start(self, flight: Flight, loader: Callable[[], Awaitable[T]], ttl_s: float) -> asyncio.Task[bytes]:
        # The load belongs to everybody who waits for it, so it does not inherit the first caller's deadline.
        context = contextvars.copy_context()
        context.run(DEADLINE.set, None)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._load(flight, loader, ttl_s), name=f"b1-load:{flight[0]}", context=context)
        self._running[flight] = task
        task.add_done_callback(lambda done: self._finished(flight, done))
        return task

    async def _load(self, flight: Flight, loader: Callable[[], Awaitable[T]], ttl_s: float) -> bytes:
        key, versions = flight
        value = exact(orjson.dumps(await loader()))
        self.l1.put(key, value, len(value), ttl_s=ttl_s, versions=versions)
        return value

    async def _wait(self, task: asyncio.Task[bytes], key: str) -> bytes:
        """Wait for a load without owning it: a caller that gives up does not take the others' load away."""
        done, _ = await asyncio.wait({task}, timeout=remaining(self._clock, self._load_wait_s))
        if not done:
            raise DeadlineExceeded(f"loading {key.partition(':')[0]} took too long")
        return task.result()

    def _finished(self, flight: Flight, task: asyncio.Task[bytes]) -> None:
        self._running.pop(flight, None)
        if not task.cancelled():
            task.exception()  # a failed load whose callers have all left is not an unretrieved exception
