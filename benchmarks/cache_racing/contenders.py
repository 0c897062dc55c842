"""The caches that race. Each imports its own packages when it is made: the peers run in an environment without ours.

The peers are used as their documents say: cashews with its client-side copy and tags, aiocache with its Redis, a lock per
key and deletion after the write. b1 races twice: its verbs with the smallest cache that keeps their rules, and its `Cache`.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cache_racing.racer import AWAY_LIMIT_S, Contender, Load
from cache_racing.world import tags_of

VERBS, CACHE, CASHEWS, AIOCACHE = "b1, verbs", "b1, Cache", "cashews", "aiocache"
OURS = (VERBS, CACHE)
TTL_S = 60
_GROUP_EVERY, _ALL_EVERY = 0.15, 0.02
_CASHEWS_KEY = "cache:{one}:{group}"


def _what(key: int, chance: random.Random) -> list[str] | None:
    """Return what a write invalidates: mostly its own key, at times a group, rarely everything."""
    draw = chance.random()
    if draw < _ALL_EVERY:
        return None
    return [tags_of(key)[draw < _GROUP_EVERY]]


class _Store:
    """The link and the store, as b1 has them."""

    def __init__(self, url: str, process: int) -> None:
        from b1.clock import SystemClock
        from b1.link import Link, LinkOptions
        from b1.store.fallback import FallbackStore
        from b1.store.memory import MemoryStore
        from b1.store.redis import RedisStore

        slots = Path(tempfile.gettempdir()) / f"b1-races-{os.getpid()}"
        self.clock = SystemClock()
        self.link = Link(LinkOptions(url, slots_dir=slots, backoff_most_s=0.2), clock=self.clock)
        self.redis = RedisStore(self.link, "race", clock=self.clock, away_limit_s=AWAY_LIMIT_S)
        self.redis.keep_mirror(heartbeat_s=2.0)
        self.store = FallbackStore(self.redis, MemoryStore(2**22, self.clock), self.clock)

    async def start(self) -> None:
        await self.link.start()

    async def aclose(self) -> None:
        await self.store.aclose()
        await self.link.aclose()

    @property
    def local_calls(self) -> int:
        return self.store.snapshot().local_calls

    async def trip(self, chance: random.Random) -> bool:
        """Make the trip that the limiter makes for every request; say whether Redis answered it."""
        from b1.store.base import Charge

        if chance.random() < 0.5:
            return await self.store.barrier()
        before = self.local_calls
        await self.store.spend([Charge("limit:race:1", 2**30, 60_000)])
        return self.local_calls == before

    def notes(self) -> dict[str, int]:
        mirror = self.redis.versions.snapshot()
        return {
            "resyncs": mirror.resyncs,
            "losses": mirror.losses,
            "connects": self.redis.connects,
            "switches": self.store.snapshot().switches,
        }


class Verbs(_Store):
    """The smallest cache that keeps the rules of the verbs: vectors before the load, validation at each read."""

    def __init__(self, url: str, process: int) -> None:
        super().__init__(url, process)
        self._chance = random.Random(process)
        self._copies: dict[int, tuple[int, bytes]] = {}

    async def read(self, key: int, load: Load) -> tuple[int, str]:
        is_proven = await self.trip(self._chance)
        versions, tags = self.store.versions, tags_of(key)
        copy = self._copies.get(key)
        if copy is not None and copy[1] == versions.vector(tags):
            if versions.is_exact:
                return copy[0], "mirror" if is_proven else "unproven"
            if self.store.mode == "local":
                return copy[0], "away"
        return await self._ask(key, load, copy)

    async def _ask(self, key: int, load: Load, copy: tuple[int, bytes] | None) -> tuple[int, str]:
        from b1.store.base import CacheRead, CacheState

        tags, versions = tags_of(key), self.store.versions
        read = CacheRead(f"cache:1:{key}", tags, 200, None if copy is None else copy[1])
        while True:
            vector, before = versions.vector(tags), self.local_calls
            answer = (await self.store.enter((), read=read)).cache
            assert answer is not None
            is_here = self.local_calls != before
            if not is_here:
                vector = answer.vector
            if answer.state is CacheState.CURRENT and copy is not None:
                return copy[0], "validated"
            if answer.state is CacheState.HIT:
                number = int(answer.value or b"")
                if not is_here and answer.vector == versions.vector(tags):
                    self._copies[key] = (number, answer.vector)
                return number, "away" if is_here else "shared"
            if answer.state is CacheState.STALE and not answer.has_lease:
                return int(answer.value or b""), "stale away" if is_here else "stale"
            if answer.state is CacheState.LOADING:
                await asyncio.sleep(0.002)
                continue
            number = await load()
            kept = await self.store.store_if_unchanged(
                f"cache:1:{key}", b"%d" % number, tags=tags, vector=answer.vector, ttl_ms=TTL_S * 1000
            )
            if (kept or is_here) and vector == versions.vector(tags):
                self._copies[key] = (number, vector)
            return number, "loaded"

    async def invalidate(self, key: int, chance: random.Random, *, soft: bool, begun: Callable[[], None]) -> bool:
        tags = _what(key, chance)
        begun()
        if soft and tags is not None:
            await self.store.invalidate([], soft=tags)
        else:
            await self.store.invalidate(tags)
        return not self.store.owes_invalidations


class WholeCache(_Store):
    """`b1.cache.Cache` over the same store."""

    def __init__(self, url: str, process: int) -> None:
        super().__init__(url, process)
        from b1.cache import L1, Cache
        from b1.cache.options import CacheOptions

        self._chance = random.Random(process)
        l1 = L1(2**22, self.clock, versions=self.store.versions)
        options = CacheOptions(loads=8, local_s=TTL_S)
        self._cache = Cache(l1, self.clock, store=self.store, limit_bytes=2**22, options=options)

    async def read(self, key: int, load: Load) -> tuple[int, str]:
        loads = 0

        async def counted() -> int:
            nonlocal loads
            loads += 1
            return await load()

        is_proven = await self.trip(self._chance)
        before = self.local_calls
        number = await self._cache.get_or_load(f"key:{key}", counted, ttl_s=TTL_S, tags=tags_of(key))
        if loads:
            return number, "loaded"
        if self.store.mode == "local" or self.local_calls != before:
            return number, "away"
        return number, "cached" if is_proven else "unproven"

    async def invalidate(self, key: int, chance: random.Random, *, soft: bool, begun: Callable[[], None]) -> bool:
        # A caller of `Cache` is not told that a value is stale, so nothing is invalidated softly here.
        tags = _what(key, chance)
        begun()
        await (self._cache.invalidate(everything=True) if tags is None else self._cache.invalidate(tags))
        return not self.store.owes_invalidations

    async def aclose(self) -> None:
        await self._cache.aclose()
        await super().aclose()


class Cashews:
    """cashews with its copy in the process, which Redis' client tracking invalidates, and with tags.

    Decorated once, as its documents show: a decorator per read would register its tags anew each time, which slows
    cashews down, and would take its own single flight (`protected`) away.
    """

    def __init__(self, url: str) -> None:
        from cashews import Cache  # type: ignore[import-not-found,unused-ignore]

        self._cache: Any = Cache()
        # Since redis-py 8 speaks RESP3 unasked, cashews 7.6 misses the pushes: no copy would ever be invalidated.
        self._cache.setup(f"{url}?protocol=2", client_side=True)

        # A tag is filled in from the key when an entry is removed, so the key has all that the tags name.
        @self._cache(ttl=TTL_S, key=_CASHEWS_KEY, tags=["{one}", "{group}"], lock=True)  # type: ignore[untyped-decorator,unused-ignore]
        async def read(one: str, group: str, load: Load) -> int:
            return await load()

        self._read: Callable[..., Awaitable[int]] = read

    async def start(self) -> None:
        await self._cache.init()

    async def read(self, key: int, load: Load) -> tuple[int, str]:
        loads = 0

        async def counted() -> int:
            nonlocal loads
            loads += 1
            return await load()

        one, group = tags_of(key)[:2]
        number = await self._read(one=one, group=group, load=counted)
        return int(number), "loaded" if loads else "cached"

    async def invalidate(self, key: int, chance: random.Random, *, soft: bool, begun: Callable[[], None]) -> bool:
        tags, (one, group) = _what(key, chance), tags_of(key)[:2]
        if tags is None or tags == [one]:
            await self._cache.delete(_CASHEWS_KEY.format(one=one, group=group))
        else:
            await self._cache.delete_tags(group)
        return True

    def notes(self) -> dict[str, int]:
        return {}

    async def aclose(self) -> None:
        await self._cache.close()


class Aiocache:
    """aiocache over Redis: read, else load under a lock of the key and set; delete after the write."""

    def __init__(self, url: str) -> None:
        from urllib.parse import urlsplit

        from aiocache import RedisCache  # type: ignore[import-not-found,unused-ignore]

        port = urlsplit(url).port
        self._cache: Any = RedisCache(endpoint="127.0.0.1", port=port, namespace="race")
        self._loading: dict[int, asyncio.Lock] = {}

    async def start(self) -> None:
        return

    async def read(self, key: int, load: Load) -> tuple[int, str]:
        found = await self._cache.get(f"cache:{key}")
        if found is not None:
            return int(found), "cached"
        async with self._loading.setdefault(key, asyncio.Lock()):
            found = await self._cache.get(f"cache:{key}")
            if found is not None:
                return int(found), "cached"
            number = await load()
            await self._cache.set(f"cache:{key}", str(number), ttl=TTL_S)
            return number, "loaded"

    async def invalidate(self, key: int, chance: random.Random, *, soft: bool, begun: Callable[[], None]) -> bool:
        await self._cache.delete(f"cache:{key}")
        return True

    def notes(self) -> dict[str, int]:
        return {}

    async def aclose(self) -> None:
        await self._cache.close()


def make(name: str, url: str, process: int) -> Contender:
    """Return a contender."""
    if name == VERBS:
        return Verbs(url, process)
    if name == CACHE:
        return WholeCache(url, process)
    return Cashews(url) if name == CASHEWS else Aiocache(url)
