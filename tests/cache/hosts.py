"""Caches of several hosts over one store in memory: what Redis would do, on a clock that stands still.

A host's versions are the store's own, as a mirror in order would have them. A host that `hears` nothing knows what its own
calls were answered and what it invalidated itself, as over a connection without pushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from b1.cache import L1, Cache
from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.store.base import CacheAnswer, CacheRead, CacheWrite
from b1.store.memory import MemoryStore
from b1.types import VersionSource

LIMIT_BYTES = 4 * 1024 * 1024


class Deaf:
    """Versions of a host to which nothing is pushed."""

    is_exact = False

    def __init__(self, store: MemoryStore) -> None:
        self.changes = 0
        self._store = store
        self._known: dict[tuple[str, ...], bytes] = {}

    def vector(self, tags: Sequence[str]) -> bytes:
        return self._known.setdefault(tuple(tags), self._store.versions.vector(tags))

    def learn(self, tags: Sequence[str], vector: bytes) -> None:
        if self._known.get(tuple(tags)) != vector:
            self._known[tuple(tags)] = vector
            self.changes += 1

    def forget(self) -> None:
        self._known.clear()
        self.changes += 1


class HostStore:
    """One host's way to the common store.

    Attributes:
        calls: what crossed it; a read of many is many.
        trips: how many entries each read asked for.
        is_away: every call fails.
        stands_in: what answers in place of a failure, as local; as the real store does it.
        pause: while it is cleared, calls are carried out and their answers wait.
    """

    def __init__(self, common: MemoryStore, *, hears: bool = True) -> None:
        self.common = common
        self.mode = "redis"
        self.calls: list[str] = []
        self.trips: list[int] = []
        self.reads: list[CacheRead] = []
        self.is_away = False
        self.stands_in: MemoryStore | None = None
        self.pause = asyncio.Event()
        self.pause.set()
        self._deaf = None if hears else Deaf(common)

    @property
    def versions(self) -> VersionSource:
        return self._deaf or self.common.versions

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        self.trips.append(len(reads))
        for _ in reads:
            self._cross("enter")
        self.reads += reads
        if self.stands_in is not None:
            self.mode = "local"
            return await self.stands_in.read_many(reads)
        answers = await self.common.read_many(reads)
        await self.pause.wait()
        if self._deaf is not None:
            for read, answer in zip(reads, answers, strict=True):
                self._deaf.learn(read.tags, answer.vector)
        return answers

    async def store_if_unchanged(self, key: str, value: bytes | None, **rest: Any) -> bool:
        self._cross("store" if value is not None else "give up")
        await self.pause.wait()
        return await self.common.store_if_unchanged(key, value, **rest)

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]:
        for write in writes:
            self._cross("store" if write.value is not None else "give up")
        await self.pause.wait()
        return await self.common.store_many(writes)

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        if self._deaf is not None:
            self._deaf.forget()
        else:
            self.common.invalidate_here(tags, soft=soft)

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self._cross("invalidate")
        await self.pause.wait()
        await self.common.invalidate(tags, soft=soft)
        if self._deaf is not None:
            self._deaf.forget()

    def _cross(self, call: str) -> None:
        self.calls.append(call)
        if self.is_away:
            raise StoreUnavailable("it is away")


class Hosts:
    """Makes caches over one store, and closes them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.common = MemoryStore(64 * 1024 * 1024, clock)
        self.made: list[Cache] = []

    def host(self, *, hears: bool = True, **options: Any) -> tuple[Cache, HostStore]:
        store = HostStore(self.common, hears=hears)
        l1 = L1(LIMIT_BYTES, self.clock, versions=store.versions)
        options.setdefault("random", lambda: 0.5)  # no jitter, and a reload before the end is due 0.7 load times before
        cache = Cache(l1, self.clock, store=store, limit_bytes=LIMIT_BYTES, **options)
        self.made.append(cache)
        return cache, store


class Loader:
    """Counts its calls; while `go` is cleared each waits, and `begun` says that one does."""

    def __init__(self, clock: Any = None, *, takes_s: float = 0.0, held: bool = False) -> None:
        self.calls = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.error: BaseException | None = None
        self._clock = clock
        self._takes_s = takes_s
        if not held:
            self.go.set()

    async def __call__(self) -> Any:
        self.calls += 1
        call = self.calls
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._clock is not None:
            self._clock.advance(self._takes_s)
        if self.error is not None:
            raise self.error
        return {"call": call}


async def settled(turns: int = 20) -> None:
    """Let everything that needs no clock come to rest."""
    for _ in range(turns):
        await asyncio.sleep(0)
