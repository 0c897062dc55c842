"""Warm-ups that wait for their turn: bounded, the most urgent first, each once."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Literal

Kind = Literal["critical", "principal", "learnt"]
# Loads, and returns the names in L1 of what it made, as far as they are known.
Run = Callable[[], Awaitable[tuple[str, ...]]]

_RANKS: dict[Kind, int] = {"critical": 0, "principal": 1, "learnt": 2}


class Job:
    """One warm-up.

    Attributes:
        name: distinct among those that wait.
        priority: within its kind; higher is earlier.
    """

    __slots__ = ("kind", "name", "priority", "run", "since_s")

    def __init__(self, name: str, kind: Kind, priority: float, run: Run, since_s: float) -> None:
        self.name = name
        self.kind = kind
        self.priority = priority
        self.run = run
        self.since_s = since_s

    def __repr__(self) -> str:
        return f"<Job {self.kind} priority={self.priority:g}>"

    @property
    def rank(self) -> tuple[int, float]:
        """Smaller is earlier."""
        return _RANKS[self.kind], -self.priority


class Jobs:
    """The queue. Guarded by the loop: changed between awaits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[tuple[int, float], int, Job]] = []
        self._names: set[str] = set()
        self._numbers = count()
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Jobs waiting={len(self._heap)} limit={self._limit}>"

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, job: Job) -> Job | None:
        """Take a job unless it waits already; return what is left out for it: the least urgent of all, perhaps itself."""
        if job.name in self._names:
            return None
        left_out = None
        if len(self._heap) >= self._limit:
            worst = max(self._heap)
            if worst[0] <= job.rank:
                return job
            left_out = worst[2]
            self._heap.remove(worst)
            heapq.heapify(self._heap)
            self._names.discard(left_out.name)
        self._names.add(job.name)
        heapq.heappush(self._heap, (job.rank, next(self._numbers), job))
        self._news.set()
        return left_out

    async def get(self) -> Job:
        """Return the most urgent one; waits for it, for as long as its owner lives."""
        while not self._heap:
            self._news.clear()
            await self._news.wait()
        _, _, job = heapq.heappop(self._heap)
        self._names.discard(job.name)
        return job

    def clear(self) -> int:
        """Leave all out; return how many there were."""
        left = len(self._heap)
        self._heap.clear()
        self._names.clear()
        return left
