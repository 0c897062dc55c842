"""The caches that are compared in process, used as their documents show: decorated once, told once where Redis is.

Each is made in a process of its own. All get the same keys, the same loader and the same lifetime. aiocache brings no
single flight but `cached_stampede`; fastapi-cache2's decorator has none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

MEMORY, MIRROR, TRIP = "b1, memory", "b1, Redis", "b1, Redis without pushes"
CASHEWS_MEMORY, CASHEWS, CASHEWS_CLIENT = "cashews, memory", "cashews, Redis", "cashews, Redis, client side"
CASHEWS_LOCKED = "cashews, Redis, lock"  # its lock between processes, which it takes for hits too
AIOCACHE_MEMORY, AIOCACHE = "aiocache, memory", "aiocache, Redis"
FASTAPI_MEMORY, FASTAPI = "fastapi-cache2, memory", "fastapi-cache2, Redis"
OURS = (MEMORY, MIRROR, TRIP)
OF_FASTAPI_CACHE = (FASTAPI_MEMORY, FASTAPI)  # an environment of its own: it needs an old redis client
IN_MEMORY = (MEMORY, CASHEWS_MEMORY, AIOCACHE_MEMORY, FASTAPI_MEMORY)
HAVE_MANY = (MEMORY, MIRROR, TRIP, CASHEWS_MEMORY, CASHEWS, CASHEWS_CLIENT, AIOCACHE_MEMORY, AIOCACHE)
WITH_REDIS = (MIRROR, TRIP, CASHEWS_CLIENT, CASHEWS, AIOCACHE, FASTAPI)
ALL = (*IN_MEMORY, *WITH_REDIS)

TTL_S = 600
LIMIT_BYTES = 64 * 1024 * 1024
ENTRIES = 100_000  # where a limit is a number of entries
Load = Callable[[int], Awaitable[Any]]


class Contender(Protocol):
    """A cache under test; `many` is only called where there is such a verb."""

    async def start(self) -> None: ...

    async def get(self, number: int) -> Any: ...

    async def many(self, numbers: Sequence[int]) -> Sequence[Any]: ...

    async def fill(self, numbers: Sequence[int]) -> None: ...

    async def aclose(self) -> None: ...


def key_of(number: int) -> str:
    return f"item:{number}"


class Ours:
    """`b1.cache.Cache`, alone or over the link, with a mirror of the versions or with a trip for each read."""

    def __init__(self, url: str | None, load: Load, *, has_mirror: bool) -> None:
        from b1.cache import L1, Cache
        from b1.clock import SystemClock

        clock = SystemClock()
        self._load = load
        self._link: Any = None
        self._store: Any = None
        if url is not None:
            self._connect(url, clock, has_mirror=has_mirror)
        versions = None if self._store is None else self._store.versions
        l1 = L1(LIMIT_BYTES, clock, versions=versions)
        self._cache = Cache(l1, clock, store=self._store, limit_bytes=LIMIT_BYTES)

    def _connect(self, url: str, clock: Any, *, has_mirror: bool) -> None:
        from b1.link import Link, LinkOptions
        from b1.store.fallback import FallbackStore
        from b1.store.memory import MemoryStore
        from b1.store.redis import RedisStore

        slots = Path(tempfile.gettempdir()) / f"b1-bench-slots-{os.getpid()}"
        self._link = Link(LinkOptions(url, slots_dir=slots), clock=clock)
        redis = RedisStore(self._link, "bench", clock=clock)
        if has_mirror:
            redis.keep_mirror()
        self._store = FallbackStore(redis, MemoryStore(2**22, clock), clock)

    async def start(self) -> None:
        if self._link is not None:
            await self._link.start()
            if not self._link.is_up:
                raise RuntimeError("Redis does not answer")

    async def get(self, number: int) -> Any:
        async def load() -> Any:
            return await self._load(number)

        return await self._cache.get_or_load(key_of(number), load, ttl_s=TTL_S)

    async def many(self, numbers: Sequence[int]) -> Sequence[Any]:
        async def load(missing: Sequence[str]) -> dict[str, Any]:
            return {key: await self._load(int(key.removeprefix("item:"))) for key in missing}

        got = await self._cache.get_many([key_of(number) for number in numbers], load, ttl_s=TTL_S)
        return list(got.values())

    async def fill(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self.get(number)

    async def aclose(self) -> None:
        await self._cache.aclose()
        if self._link is not None:
            await self._store.aclose()
            await self._link.aclose()


class Cashews:
    """cashews' decorator; its single flight in a process is on by default."""

    def __init__(self, url: str | None, load: Load, *, is_client_side: bool, is_locked: bool) -> None:
        from cashews import Cache  # type: ignore[import-not-found,unused-ignore]

        self._cache: Any = Cache()
        if url is None:
            self._cache.setup("mem://", size=ENTRIES)
        elif is_client_side:
            from cashews.backends.memory import Memory  # type: ignore[import-not-found,unused-ignore]

            # Since redis-py 8 speaks RESP3 unasked, cashews 7.6 misses the pushes: no copy would ever be invalidated.
            self._cache.setup(f"{url}?protocol=2", client_side=True, local_cache=Memory(size=ENTRIES))
        else:
            self._cache.setup(url)

        @self._cache(ttl=TTL_S, key="item:{number}", lock=is_locked)  # type: ignore[untyped-decorator,unused-ignore]
        async def get(number: int) -> Any:
            return await load(number)

        self.get: Callable[[int], Awaitable[Any]] = get

    async def start(self) -> None:
        await self._cache.init()

    async def many(self, numbers: Sequence[int]) -> Sequence[Any]:
        return list(await self._cache.get_many(*map(key_of, numbers)))

    async def fill(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self.get(number)

    async def aclose(self) -> None:
        await self._cache.close()


class Aiocache:
    """aiocache's decorator that locks a load."""

    def __init__(self, url: str | None, load: Load) -> None:
        from aiocache import RedisCache, SimpleMemoryCache, cached_stampede  # type: ignore[import-not-found,unused-ignore]
        from aiocache.serializers import JsonSerializer  # type: ignore[import-not-found,unused-ignore]

        place: dict[str, Any] = {"cache": SimpleMemoryCache}
        if url is not None:
            # redis-py 8 refuses the 101st connection of a pool, and with it most callers of a stampede.
            where = {"endpoint": "127.0.0.1", "port": urlsplit(url).port, "pool_max_size": 2000}
            place = {"cache": RedisCache, "serializer": JsonSerializer(), **where}
        wrapped = cached_stampede(lease=5, ttl=TTL_S, key_builder=lambda _, number: key_of(number), **place)

        async def get(number: int) -> Any:
            return await load(number)

        self.get: Callable[[int], Awaitable[Any]] = wrapped(get)
        self._cache: Any = wrapped.cache or self.get.cache  # type: ignore[attr-defined]

    async def start(self) -> None:
        return

    async def many(self, numbers: Sequence[int]) -> Sequence[Any]:
        return list(await self._cache.multi_get([key_of(number) for number in numbers]))

    async def fill(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self.get(number)

    async def aclose(self) -> None:
        await self._cache.close()


class FastApiCache:
    """fastapi-cache2's decorator on a function that is no route: its keys, its JSON coder, its backend."""

    def __init__(self, url: str | None, load: Load) -> None:
        from fastapi_cache import FastAPICache  # type: ignore[import-not-found,unused-ignore]
        from fastapi_cache.decorator import cache  # type: ignore[import-not-found,unused-ignore]

        self._client: Any = None
        if url is None:
            from fastapi_cache.backends.inmemory import InMemoryBackend  # type: ignore[import-not-found,unused-ignore]

            InMemoryBackend._store.clear()  # which all its objects share
            backend: Any = InMemoryBackend()
        else:
            from fastapi_cache.backends.redis import RedisBackend  # type: ignore[import-not-found,unused-ignore]
            from redis import asyncio as redis

            self._client = redis.from_url(url)
            backend = RedisBackend(self._client)
        FastAPICache.reset()
        FastAPICache.init(backend, prefix="bench")

        @cache(expire=TTL_S)  # type: ignore[untyped-decorator,unused-ignore]
        async def get(number: int) -> Any:
            return await load(number)

        self.get: Callable[[int], Awaitable[Any]] = get

    async def start(self) -> None:
        return

    async def many(self, numbers: Sequence[int]) -> Sequence[Any]:
        raise NotImplementedError

    async def fill(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self.get(number)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()


def make(name: str, url: str | None, load: Load) -> Contender:
    """Return a contender; `url` is ignored by those in memory."""
    if name in IN_MEMORY:
        url = None
    if name in OURS:
        return Ours(url, load, has_mirror=name == MIRROR)
    if name.startswith("cashews"):
        return Cashews(url, load, is_client_side=name == CASHEWS_CLIENT, is_locked=name == CASHEWS_LOCKED)
    return Aiocache(url, load) if name.startswith("aiocache") else FastApiCache(url, load)
