"""Many entries kept in one call: each as `store_if_unchanged` would, in bounded pieces, and none when Redis is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from b1.clock import ManualClock, SystemClock
from b1.link import Link, LinkOptions
from b1.store import remote_cache
from b1.store.base import CacheRead, CacheState, CacheWrite, Store
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from tests.store.distant import Distant


@pytest.fixture
async def redis(redis_url: str, tmp_path: Path) -> AsyncIterator[RedisStore]:
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    await link.start()
    yield RedisStore(link, "many")
    await link.aclose()


@pytest.fixture(params=["memory", "redis", "fallback"])
async def store(request: pytest.FixtureRequest, redis: RedisStore) -> AsyncIterator[Store]:
    clock = SystemClock()
    memory = MemoryStore(2**22, clock)
    fallback = FallbackStore(redis, memory, clock)
    yield {"memory": memory, "redis": redis, "fallback": fallback}[request.param]
    await fallback.aclose()


async def _vectors(store: Store, *tags: tuple[str, ...]) -> list[bytes]:
    return [answer.vector for answer in await store.read_many([CacheRead(None, each) for each in tags])]


async def test_each_is_kept_unless_its_own_tags_moved(store: Store) -> None:
    one, both, moved = await _vectors(store, ("t",), ("t", "u"), ("v", "t"))
    await store.invalidate(["v"])
    writes = [
        CacheWrite("cache:one", b"1", ("t",), one, 60_000),
        CacheWrite("cache:moved", b"m", ("v", "t"), moved, 60_000),
        CacheWrite("cache:both", b"", ("t", "u"), both, 60_000, 30_000),
        CacheWrite("cache:given", None, ("t",), one, 1),
        CacheWrite("cache:odd", b"o", ("t",), b"no vector", 60_000),
    ]
    assert [True, False, True, False, False] == await store.store_many(writes)
    reads = [CacheRead(write.key, write.tags) for write in writes]
    found = await store.read_many(reads)
    assert [b"1", None, b"", None, None] == [answer.value for answer in found]
    assert (True, 25_000 < found[2].fresh_ms <= 30_000) == (found[0].left_ms > 55_000, True)


async def test_what_it_keeps_is_what_one_alone_would_keep(redis: RedisStore) -> None:
    [vector] = await _vectors(redis, ("t", "u"))
    await redis.store_if_unchanged(
        "cache:a", b"x" * 999, tags=("t", "u"), vector=vector, ttl_ms=60_000, fresh_ms=20_000
    )
    assert [True] == await redis.store_many([CacheWrite("cache:b", b"x" * 999, ("t", "u"), vector, 60_000, 20_000)])
    raw = [await redis._link.call("GET", redis.prefix + name) for name in ("cache:a", "cache:b")]
    assert raw[0] == raw[1]


async def test_each_lease_ends_whether_or_not_something_is_kept(store: Store) -> None:
    reads = [CacheRead(f"cache:{number}", ("t",), lease_ms=9000) for number in range(3)]
    leased = await store.read_many(reads)
    assert [CacheState.LEASED] * 3 == [answer.state for answer in leased]
    first, second = [CacheWrite(read.key or "", None, read.tags, leased[0].vector, 60_000) for read in reads[:2]]
    await store.store_many([first._replace(value=b"v"), second])
    states = [answer.state for answer in await store.read_many(reads)]
    assert [CacheState.HIT, CacheState.LEASED, CacheState.LOADING] == states


async def test_a_value_may_live_longer_than_32_bits_of_milliseconds(store: Store) -> None:
    [vector] = await _vectors(store, ("t",))
    sixty_days_ms = 60 * 86_400_000
    assert [True] == await store.store_many(
        [CacheWrite("cache:k", b"v", ("t",), vector, sixty_days_ms, sixty_days_ms // 2)]
    )
    [found] = await store.read_many([CacheRead("cache:k", ("t",))])
    assert (CacheState.HIT, True) == (found.state, found.left_ms > sixty_days_ms - 60_000)


@pytest.mark.parametrize("count", [0, 1, 128, 300])
async def test_any_number_is_kept(count: int, store: Store) -> None:
    [vector] = await _vectors(store, ("t",))
    writes = [CacheWrite(f"cache:{number}", b"%d" % number, ("t",), vector, 60_000) for number in range(count)]
    assert [True] * count == await store.store_many(writes)
    found = await store.read_many([CacheRead(write.key, ("t",)) for write in writes]) if writes else []
    assert [write.value for write in writes] == [answer.value for answer in found]


async def test_large_values_go_in_several_scripts(redis: RedisStore) -> None:
    [vector] = await _vectors(redis, ("t",))
    before = redis.snapshot().round_trips
    value = b"x" * (remote_cache.CHUNK_BYTES // 2)
    assert [True] * 7 == await redis.store_many(
        [CacheWrite(f"cache:{n}", value, ("t",), vector, 60_000) for n in range(7)]
    )
    assert 4 == redis.snapshot().round_trips - before


async def test_a_server_that_lost_the_script_gets_it_again(redis: RedisStore) -> None:
    [vector] = await _vectors(redis, ("t",))
    await redis._link.call("SCRIPT", "FLUSH")
    assert [True] == await redis.store_many([CacheWrite("cache:k", b"v", ("t",), vector, 60_000)])


async def test_while_redis_is_away_memory_keeps_nothing_that_was_begun_in_redis() -> None:
    clock = ManualClock()
    distant = Distant(clock)
    store = FallbackStore(distant, MemoryStore(2**22, clock), clock)
    [vector] = await _vectors(store, ("t",))
    distant.is_away = True
    assert [False] == await store.store_many([CacheWrite("cache:k", b"v", ("t",), vector, 60_000)])
    await store.aclose()
