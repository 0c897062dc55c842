"""Many entries in one call: what `enter` says of each, in bounded pieces, and nothing at all when Redis is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from b1.clock import ManualClock, SystemClock
from b1.errors import StoreUnavailable
from b1.link import Link, LinkOptions
from b1.store import remote_cache
from b1.store.base import CacheAnswer, CacheRead, CacheState, Store
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


async def _keep(store: Store, key: str, value: bytes, tags: tuple[str, ...], **more: Any) -> bytes:
    vector = (await store.read_many([CacheRead(None, tags)]))[0].vector
    assert await store.store_if_unchanged(key, value, tags=tags, vector=vector, ttl_ms=60_000, **more)
    return vector


def _states(answers: list[CacheAnswer]) -> list[CacheState]:
    return [answer.state for answer in answers]


async def test_each_kind_of_answer_comes_in_the_order_of_the_questions(store: Store) -> None:
    held = await _keep(store, "cache:held", b"h", ("t",))
    await _keep(store, "cache:fresh", b"f", ("t", "u"))
    await _keep(store, "cache:soft", b"s", ("soft",))
    await store.invalidate([], soft=["soft"])
    await store.read_many([CacheRead("cache:loading", ("t",), lease_ms=9000)])
    answers = await store.read_many(
        [
            CacheRead("cache:held", ("t",), held=held),
            CacheRead("cache:fresh", ("t", "u")),
            CacheRead("cache:soft", ("soft",), lease_ms=9000),
            CacheRead("cache:soft", ("soft",), lease_ms=9000),
            CacheRead("cache:loading", ("t",), lease_ms=9000),
            CacheRead("cache:none", ("t",), lease_ms=9000),
            CacheRead("cache:nothing", ("t",)),
            CacheRead(None, ("soft", "t")),
        ]
    )
    assert [
        CacheState.CURRENT, CacheState.HIT, CacheState.STALE, CacheState.STALE, CacheState.LOADING, CacheState.LEASED,
        CacheState.MISS, CacheState.MISS,
    ] == _states(answers)  # fmt: skip
    assert [None, b"f", b"s", b"s", None, None, None, None] == [answer.value for answer in answers]
    assert [False, False, True, False] == [answer.has_lease for answer in answers[:4]]
    assert 0 < answers[1].fresh_ms <= answers[1].left_ms <= 60_000
    assert 0 < answers[4].left_ms <= 9000


async def test_it_says_of_each_what_a_read_of_that_one_alone_says(store: Store) -> None:
    for number in range(0, 300, 2):
        await _keep(store, f"cache:{number}", b"%d" % number, (f"k{number}", "all", f"g{number % 7}"), fresh_ms=50_000)
    await store.invalidate(["g3"], soft=["g4", "k5"])
    reads = [CacheRead(f"cache:{number}", (f"k{number}", "all", f"g{number % 7}")) for number in range(300)]
    alone = [(await store.enter([], read=read)).cache for read in reads]
    together = await store.read_many(reads)
    assert [(one.state, one.value, one.vector) for one in alone if one is not None] == [
        (one.state, one.value, one.vector) for one in together
    ]


async def test_a_value_is_stored_under_the_lease_and_vector_of_a_common_read(store: Store) -> None:
    reads = [CacheRead(f"cache:{number}", (f"k{number}",), lease_ms=9000) for number in range(5)]
    for read, answer in zip(reads, await store.read_many(reads), strict=True):
        assert answer.state is CacheState.LEASED
        if read.key == "cache:3":
            await store.invalidate(["k3"])
        kept = await store.store_if_unchanged(read.key or "", b"v", tags=read.tags, vector=answer.vector, ttl_ms=60_000)
        assert kept is (read.key != "cache:3")
    again = await store.read_many(reads)
    assert [CacheState.HIT] * 3 + [CacheState.LEASED, CacheState.HIT] == _states(again)


async def test_large_values_come_in_several_answers_and_many_keys_in_several_scripts(redis: RedisStore) -> None:
    size = remote_cache.CHUNK_BYTES // 3 + 1
    for number in range(9):
        await _keep(redis, f"cache:{number}", b"x" * size, ("t",))
    reads = [CacheRead(f"cache:{number}", ("t",), lease_ms=9000) for number in range(2 * remote_cache.CHUNK + 1)]
    before = redis.snapshot().round_trips
    answers = await redis.read_many(reads)
    assert [CacheState.HIT] * 9 + [CacheState.LEASED] * (len(reads) - 9) == _states(answers)
    assert [size] * 9 == [len(answer.value or b"") for answer in answers[:9]]
    # Three values fill an answer. The rest of the first chunk comes in 8 pieces of 16; of the first of these three are
    # answered again, and the other 13 come in 5 pieces of 3. And there are two chunks more.
    assert redis.snapshot().round_trips - before == 1 + 8 + 5 + 2


async def test_what_is_no_entry_is_a_miss_of_that_one_alone(redis: RedisStore) -> None:
    await redis._link.call("LPUSH", redis.prefix + "cache:1", "x")
    await _keep(redis, "cache:2", b"2", ("t",))
    await redis._link.call("SET", redis.prefix + "cache:3", "gibberish that is long enough for a head")
    answers = await redis.read_many([CacheRead(f"cache:{number}", ("t",)) for number in (1, 2, 3)])
    assert [CacheState.MISS, CacheState.HIT, CacheState.MISS] == _states(answers)


async def test_while_redis_is_away_memory_answers_and_serves_nothing_afterwards(clock: ManualClock) -> None:
    distant = Distant(clock)
    store = FallbackStore(distant, MemoryStore(2**22, clock), clock)
    await _keep(store, "cache:1", b"1", ("t",))
    distant.is_away = True
    reads = [CacheRead("cache:1", ("t",), lease_ms=9000), CacheRead("cache:2", ("t",), lease_ms=9000)]
    assert [CacheState.LEASED, CacheState.LEASED] == _states(await store.read_many(reads))
    assert store.mode == "local"
    distant.is_away = False
    assert [CacheState.HIT, CacheState.LEASED] == _states(await store.read_many(reads))
    assert store.mode == "redis"
    await store.aclose()


async def test_one_call_that_fails_has_nothing_to_say_while_redis_goes_on(clock: ManualClock) -> None:
    distant = Distant(clock)
    store = FallbackStore(distant, MemoryStore(2**22, clock), clock)
    await _keep(store, "cache:1", b"1", ("t",))
    distant.error = StoreUnavailable("that one was lost")
    answers = await store.read_many([CacheRead("cache:1", ("t",), lease_ms=9000)] * 2)
    assert (["redis"], [CacheState.MISS] * 2) == ([store.mode], _states(answers))
    distant.error = None
    await store.aclose()
