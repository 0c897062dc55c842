"""Samples memory, knows the level, and reclaims when it rises: caches first, then garbage, then the allocator's pages.

This is the first working version of the ladder: eviction, collection and trimming at the high watermark. Replacement of
the worker and the steps above are not part of it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from b1.clock import Clock
from b1.governor import memory
from b1.governor.watermark import Level, Watermark
from b1.types import Reclaimable

log = logging.getLogger("b1.governor")

# A step is repeated at the same level only after this long: collecting in a loop would cost more than it gives.
REPEAT_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class GovernorSnapshot:
    """Memory as the governor sees it; `reclaimed_bytes` is the sum of what its steps measurably gave back."""

    used_bytes: int
    limit_bytes: int
    level: str
    level_number: int
    reclaims: int
    reclaimed_bytes: int

    @property
    def ratio(self) -> float:
        """Used memory as a share of the limit."""
        return self.used_bytes / self.limit_bytes


class Governor:
    """One per worker.

    Args:
        read_used: returns the bytes that count; replaced in tests and for pressure injection.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        limit_bytes: int,
        marks: Mapping[str, int],
        interval_s: float,
        read_used: Callable[[], int] = memory.used_bytes,
    ) -> None:
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._interval_s = interval_s
        self._read_used = read_used
        self._watermark = Watermark(marks)
        self._reclaimables: list[Reclaimable] = []
        self._used_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._last_reclaim_s = float("-inf")
        self._reclaims = 0
        self._reclaimed_bytes = 0

    def __repr__(self) -> str:
        return f"<Governor {self._watermark.level.name.lower()} used_bytes={self._used_bytes}>"

    @property
    def level(self) -> Level:
        """The present level; read on the request path."""
        return self._watermark.level

    def register(self, reclaimable: Reclaimable) -> None:
        """Let the governor take memory from it; lower priorities are emptied first."""
        self._reclaimables.append(reclaimable)
        self._reclaimables.sort(key=lambda one: one.priority)

    def start(self) -> None:
        """Begin to sample."""
        self._used_bytes = self._read_used()
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="b1-governor")

    async def aclose(self) -> None:
        """Stop sampling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def snapshot(self) -> GovernorSnapshot:
        """Return the last sample; no I/O."""
        level = self._watermark.level
        return GovernorSnapshot(
            used_bytes=self._used_bytes,
            limit_bytes=self._limit_bytes,
            level=level.name.lower(),
            level_number=int(level),
            reclaims=self._reclaims,
            reclaimed_bytes=self._reclaimed_bytes,
        )

    async def sample(self) -> Level:
        """Take one sample and act on a level that was just reached, or that still holds after a while."""
        before = self._watermark.level
        self._used_bytes = self._read_used()
        level = self._watermark.update(self._used_bytes / self._limit_bytes, self._clock.monotonic())
        if level is not before:
            log.warning("memory level changed", extra={"level": level.name.lower(), "usedBytes": self._used_bytes})
        is_repeat_due = self._clock.monotonic() - self._last_reclaim_s >= REPEAT_AFTER_S
        if level >= Level.HIGH and (level > before or is_repeat_due):
            await self.reclaim()
        return level

    async def reclaim(self) -> int:
        """Evict half of what is reclaimable, collect, and give freed pages back; return the bytes that really left."""
        self._last_reclaim_s = self._clock.monotonic()
        before = self._read_used()
        evicted = 0
        for reclaimable in self._reclaimables:
            evicted += reclaimable.reclaim(reclaimable.held_bytes() // 2)
            await asyncio.sleep(0)  # between holders, so that no slice holds the loop for long
        gc.collect(1)
        trim = memory.trimmer()
        if trim is not None:
            await asyncio.to_thread(trim)
        self._used_bytes = self._read_used()
        returned = max(0, before - self._used_bytes)
        self._reclaims += 1
        self._reclaimed_bytes += returned
        log.warning("memory reclaimed", extra={"evictedBytes": evicted, "returnedBytes": returned})
        return returned

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.sample()
