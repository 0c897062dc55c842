"""Readers, loaders and writers at random over three clients: nobody reads what was invalidated before the read began."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from b1.clock import SystemClock
from b1.link import Link, LinkOptions
from b1.store.base import CacheRead, CacheState, Store
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore

KEYS, TAGS = 5, ("t0", "t1", "t2")
READS = 1200


@pytest.fixture(params=["memory", "redis"])
async def clients(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    if request.param == "memory":
        yield [MemoryStore(2**22, SystemClock())] * 3
        return
    url = request.getfixturevalue("redis_url")
    links = [Link(LinkOptions(url, deadline_s=10, connections=3, slots_dir=tmp_path / "slots")) for _ in range(3)]
    for link in links:
        await link.start()
    yield [RedisStore(link, "coherence") for link in links]
    for link in links:
        await link.aclose()


class World:
    """The source of truth: a number per key; each key depends on its own tag and on one that it shares."""

    def __init__(self) -> None:
        self.truth = [0] * KEYS
        self.visible = [0] * KEYS  # invalidated up to this number: older ones must not be read any more
        self.stale = self.hits = self.loads = self.refused = 0

    def tags(self, key: int) -> tuple[str, ...]:
        return f"k{key}", TAGS[key % 3]


async def _read(world: World, store: Store, chance: random.Random) -> None:
    key = chance.randrange(KEYS)
    least = world.visible[key]
    name, tags = f"cache:1:{key}", world.tags(key)
    while True:
        answer = (await store.enter([], read=CacheRead(name, tags, lease_ms=200))).cache
        assert answer is not None
        if answer.state is CacheState.HIT:
            world.hits += 1
            seen = int(answer.value or b"")
            break
        if answer.state is CacheState.LOADING:
            await asyncio.sleep(0.002)
            continue
        seen = world.truth[key]
        await asyncio.sleep(chance.random() * 0.004)  # the load takes its time; the truth may move
        world.loads += 1
        kept = await store.store_if_unchanged(name, b"%d" % seen, tags=tags, vector=answer.vector, ttl_ms=60_000)
        world.refused += not kept
        break
    world.stale += seen < least


async def _write(world: World, store: Store, chance: random.Random) -> None:
    key = chance.randrange(KEYS)
    number = world.truth[key] = world.truth[key] + 1
    tag = chance.choice(world.tags(key))
    await store.invalidate([tag])
    world.visible[key] = max(world.visible[key], number)


async def test_no_read_returns_what_was_invalidated_before_it_began(clients: list[Store]) -> None:
    world, chance = World(), random.Random(1)
    is_over = False

    async def reader(number: int) -> None:
        for _ in range(READS // 12):
            await _read(world, clients[number % 3], chance)
            await asyncio.sleep(chance.random() * 0.002)

    async def writer(number: int) -> None:
        while not is_over:
            await _write(world, clients[number % 3], chance)
            await asyncio.sleep(chance.random() * 0.01)

    writers = [asyncio.create_task(writer(number)) for number in range(3)]
    await asyncio.gather(*(reader(number) for number in range(12)))
    is_over = True
    await asyncio.gather(*writers)
    assert world.stale == 0
    assert min(world.hits, world.loads, world.refused) > 10  # it was a contest
