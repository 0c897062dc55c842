"""What a read made is gone when it ends. Cycles would keep each value until the collector comes: thousands of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from b1.cache import L1, Cache
from b1.clock import SystemClock

READS = 50


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    clock = SystemClock()
    cache = Cache(L1(2**22, clock), clock, limit_bytes=2**22)
    yield cache
    await cache.aclose()


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _load() -> dict[str, int]:
    return {"a": 1}


async def _load_slowly() -> dict[str, int]:
    await asyncio.sleep(0.001)
    return {"a": 1}


@pytest.mark.parametrize("load", [_load, _load_slowly])
async def test_a_load_leaves_no_garbage(cache: Cache, load: Callable[[], Awaitable[dict[str, int]]]) -> None:
    await cache.get_or_load("first", load, ttl_s=60)
    with _without_collector():
        for number in range(READS):
            await cache.get_or_load(f"key:{number}", load, ttl_s=60)
        await asyncio.sleep(0.01)
        assert gc.collect() < READS


async def test_many_loads_leave_no_garbage(cache: Cache) -> None:
    async def load(keys: list[str]) -> dict[str, str]:
        return {key: key for key in keys}

    await cache.get_many(["first"], load, ttl_s=60)
    with _without_collector():
        for number in range(5):
            await cache.get_many([f"key:{number}:{place}" for place in range(READS)], load, ttl_s=60)
        await asyncio.sleep(0.01)
        assert gc.collect() < READS
