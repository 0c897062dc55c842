"""One contract, every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from b1.link import Link, LinkOptions
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.testing import StoreCheck, StoreHarness, store_contract

KINDS = ("memory", "redis", "fallback-on-redis", "fallback-on-memory")


@pytest.fixture(params=KINDS)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreHarness]:
    clock = StoreHarness.clock_at_start()
    memory = MemoryStore(2**20, clock)
    if request.param == "memory":
        yield StoreHarness(memory, clock)
        return
    url = request.getfixturevalue("redis_url")
    # A deadline that a busy machine does not miss: this is about answers, not about time.
    link = Link(LinkOptions(url, deadline_s=10, slots_dir=tmp_path / "slots"))
    redis = RedisStore(link, "contract", now_ms=lambda: round(clock.wall() * 1000))
    if request.param != "fallback-on-memory":
        await link.start()
    store = redis if request.param == "redis" else FallbackStore(redis, memory, clock)
    yield StoreHarness(store, clock)
    await link.aclose()


@pytest.mark.parametrize("check", store_contract, ids=lambda check: check.__name__)
async def test_every_store_keeps_the_contract(check: StoreCheck, harness: StoreHarness) -> None:
    await check(harness)
