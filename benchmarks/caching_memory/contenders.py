"""The maps, each behind the same verbs. What one needs is imported when it is made, in its own process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

OURS, PLAIN = "b1", "OrderedDict, LRU"
_FOR_EVER_S = 1e6
# The entries that were read before a share is given up: a cache keeps them, scattered as they are.
READ: set[int] = set()


class Contender(Protocol):
    """A map of so many bytes. `overhead`: what one entry costs beside key and value; measured by the first work."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes) -> None: ...

    def accounted(self) -> int:
        """Return what it says it holds, in bytes."""
        ...

    def count(self) -> int:
        """Return how many entries it has."""
        ...

    def shrink(self, share: float) -> None:
        """Give up so much of what is held, as well as it can, and the memory of it."""
        ...


class B1:
    """This project's."""

    def __init__(self, limit: int, overhead: int) -> None:
        from b1.cache import L1
        from b1.clock import SystemClock

        self._clock = SystemClock()
        self.l1 = L1(limit, self._clock)

    def get(self, key: str) -> bytes | None:
        found = self.l1.get(key)
        return None if found is None else found.value

    def put(self, key: str, value: bytes) -> None:
        self.l1.put(key, value, ttl_s=_FOR_EVER_S, versions=())

    def accounted(self) -> int:
        return self.l1.held_bytes()

    def count(self) -> int:
        return len(self.l1)

    def shrink(self, share: float) -> None:
        from b1.governor import Governor, GovernorOptions
        from b1.plan import WATERMARKS

        async def reclaim() -> None:
            options = GovernorOptions(ballast_bytes=0)
            governor = Governor(self._clock, limit_bytes=64 << 30, marks=WATERMARKS, interval_s=1.0, options=options)
            governor.register(self.l1)
            await governor.reclaim(share)
            await governor.aclose()

        asyncio.run(reclaim())


class Plain:
    """What one would write: an OrderedDict, least recently used out first."""

    def __init__(self, limit: int, overhead: int) -> None:
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._limit, self._overhead = limit, overhead
        self._held = 0

    def get(self, key: str) -> bytes | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: str, value: bytes) -> None:
        self._entries[key] = value
        self._held += len(key) + len(value) + self._overhead
        while self._held > self._limit:
            self._pop()

    def accounted(self) -> int:
        return self._held

    def count(self) -> int:
        return len(self._entries)

    def shrink(self, share: float) -> None:
        for _ in range(int(len(self._entries) * share)):
            self._pop()
        trim()

    def _pop(self) -> None:
        key, value = self._entries.popitem(last=False)
        self._held -= len(key) + len(value) + self._overhead


class Cachebox:
    """cachebox, by the sizes that we tell it."""

    def __init__(self, kind: str, limit: int, overhead: int) -> None:
        import cachebox

        made = getattr(cachebox, kind)
        self._cache: Any = made(limit, getsizeof=lambda key, value: len(key) + len(value) + overhead)

    def get(self, key: str) -> bytes | None:
        value: bytes | None = self._cache.get(key)
        return value

    def put(self, key: str, value: bytes) -> None:
        self._cache[key] = value

    def accounted(self) -> int:
        return int(self._cache.current_size())

    def count(self) -> int:
        return len(self._cache)

    def shrink(self, share: float) -> None:
        for _ in range(int(len(self._cache) * share)):
            self._cache.popitem()
        self._cache.shrink_to_fit()
        trim()


class Moka:
    """moka-py, by the sizes that we tell it. It cannot be made smaller: what came first and was not read is removed."""

    def __init__(self, limit: int, overhead: int) -> None:
        import moka_py

        self._cache: Any = moka_py.Moka(limit, weigher=lambda key, value: len(key) + len(value) + overhead)

    def get(self, key: str) -> bytes | None:
        value: bytes | None = self._cache.get(key)
        return value

    def put(self, key: str, value: bytes) -> None:
        self._cache.set(key, value)

    def accounted(self) -> int:
        self._cache.run_pending_tasks()
        return int(self._cache.weighted_size())

    def count(self) -> int:
        return int(self._cache.count())

    def shrink(self, share: float) -> None:
        removing, number = int(self._cache.count() * share), 0
        while removing > 0:
            if number not in READ:
                self._cache.remove(name_of(number))
                removing -= 1
            number += 1
        self._cache.run_pending_tasks()
        trim()


def name_of(number: int) -> str:
    """Return a key as an application makes it; a new string each time, as there."""
    return f"organisation:{number % 200}:entity:{number:07d}"


def trim() -> None:
    """Do for the others what our governor does: collect, and let the allocator return what it can."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


CONTENDERS: dict[str, Callable[[int, int], Contender]] = {
    OURS: B1,
    PLAIN: Plain,
    "cachebox, LRU": lambda limit, overhead: Cachebox("LRUCache", limit, overhead),
    "cachebox, LFU": lambda limit, overhead: Cachebox("LFUCache", limit, overhead),
    "moka-py, TinyLFU": Moka,
}
