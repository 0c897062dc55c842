"""Mirrors in two processes' place, on a real server: what one invalidates, the other knows after any trip."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from b1.clock import SystemClock
from b1.errors import StoreUnavailable
from b1.link import Link, LinkOptions
from b1.store.base import CacheRead, CacheState
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.store.versions import compare
from tests.servers import RedisServer
from tests.store.proxy import Proxy

TAGS = ("accounts:1", "plan:1")
TABLE = "b1:{n}:cache:versions"
Make = Callable[..., Awaitable[RedisStore]]


async def until(is_true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.01)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make stores that keep a mirror, each on a link of its own."""
    links: list[Link] = []

    async def one(url: str, *, heartbeat_s: float = 60.0) -> RedisStore:
        options = LinkOptions(url, deadline_s=10, connections=4, slots_dir=tmp_path / "slots", backoff_most_s=0.05)
        links.append(Link(options))
        store = RedisStore(links[-1], "n", away_limit_s=5)
        store.keep_mirror(heartbeat_s=heartbeat_s)
        await links[-1].start()
        return store

    yield one
    for link in links:
        await link.aclose()


async def exact(make: Make, url: str, **options: float) -> RedisStore:
    store = await make(url, **options)
    await until(lambda: store.versions.is_exact)
    return store


async def trip_vector(store: RedisStore) -> bytes:
    answer = (await store.enter([], read=CacheRead(None, TAGS))).cache
    assert answer is not None
    return answer.vector


@pytest.mark.parametrize(
    ("hard", "soft", "difference"),
    [([TAGS[0]], [], "hard"), ([], [TAGS[1]], "soft"), (["x"], [TAGS[0]], "soft"), (None, [], "hard")],
)
async def test_after_a_trip_the_mirror_has_what_others_invalidated(
    make: Make, redis_url: str, hard: list[str] | None, soft: list[str], difference: str
) -> None:
    ours, theirs = await exact(make, redis_url), await exact(make, redis_url)
    for _ in range(40):
        before = ours.versions.vector(TAGS)
        await theirs.invalidate(hard, soft=soft)
        assert await ours.barrier()
        assert compare(before, ours.versions.vector(TAGS)) == difference
        assert ours.versions.vector(TAGS) == theirs.versions.vector(TAGS) == await trip_vector(ours)
    assert ours.versions.snapshot().resyncs == 1


async def test_an_own_invalidation_is_in_the_mirror_when_the_call_returns(make: Make, redis_url: str) -> None:
    store = await exact(make, redis_url)
    await store.invalidate(["accounts:1"])
    assert not store.owes_invalidations
    assert store.versions.vector(TAGS) == await trip_vector(store)
    assert store.versions.snapshot().losses == 0


async def test_a_process_that_was_cut_off_learns_what_it_missed_and_keeps_the_rest(
    make: Make, redis_url: str, redis_server: RedisServer
) -> None:
    ours, theirs = await exact(make, redis_url), await exact(make, redis_url)
    kept, gone = ours.versions.vector(["plan:1"]), ours.versions.vector(["accounts:1"])
    redis_server.command("CLIENT", "KILL", "ID", await ours._link.call("CLIENT", "ID"))
    await theirs.invalidate(["accounts:1"])
    await until(lambda: ours.connects == 2 and ours.versions.is_exact)
    assert await ours.barrier()
    assert ours.versions.vector(["plan:1"]) == kept
    assert compare(gone, ours.versions.vector(["accounts:1"])) == "hard"


@pytest.mark.parametrize("how", ["FLUSHALL", "DEL"])
async def test_an_invalidation_after_the_table_was_lost_reaches_everybody(
    make: Make, redis_url: str, redis_server: RedisServer, how: str
) -> None:
    ours, theirs = await exact(make, redis_url), await exact(make, redis_url)
    before = ours.versions.vector(TAGS)
    redis_server.command(*([how] if how == "FLUSHALL" else [how, TABLE]))
    await theirs.invalidate(["something else"])
    await ours.barrier()
    assert compare(before, ours.versions.vector(TAGS)) == "hard"
    await until(lambda: ours.versions.is_exact and theirs.versions.is_exact)
    assert ours.versions.vector(TAGS) == theirs.versions.vector(TAGS) == await trip_vector(ours)


async def test_whoever_reads_first_after_a_flush_tells_the_others(
    make: Make, redis_url: str, redis_server: RedisServer
) -> None:
    ours, theirs = await exact(make, redis_url), await exact(make, redis_url)
    before = ours.versions.vector(TAGS)
    redis_server.command("FLUSHALL")
    await trip_vector(theirs)
    await ours.barrier()
    assert compare(before, ours.versions.vector(TAGS)) == "hard"


async def test_a_table_that_was_lost_without_a_word_is_noticed_by_the_heartbeat(
    make: Make, redis_url: str, redis_server: RedisServer
) -> None:
    store = await exact(make, redis_url, heartbeat_s=0.05)
    before = store.versions.vector(TAGS)
    redis_server.command("FLUSHALL")
    await until(lambda: store.versions.vector(TAGS) != before)
    await until(lambda: store.versions.is_exact)
    assert store.versions.vector(TAGS) == await trip_vector(store)


@pytest.mark.real
async def test_a_server_that_comes_back_empty_makes_everything_stale(
    make: Make, own_redis: Callable[[], RedisServer]
) -> None:
    server = own_redis()
    store = await exact(make, server.url)
    await store.invalidate(["accounts:1"])
    before = store.versions.vector(TAGS)
    server.kill()
    await until(lambda: not store.versions.is_exact)
    assert store.versions.vector(TAGS) == before
    server.start()
    await until(lambda: store.versions.is_exact)
    assert compare(before, store.versions.vector(TAGS)) == "hard"


async def test_a_server_that_went_back_in_time_serves_nothing_of_then(
    make: Make, redis_url: str, redis_server: RedisServer
) -> None:
    ours = await exact(make, redis_url)
    older = await trip_vector(ours)
    assert await ours.store_if_unchanged("cache:1:k", b"old", tags=TAGS, vector=older, ttl_ms=60_000)
    redis_server.command("COPY", TABLE, "copy")
    redis_server.command("COPY", "b1:{n}:cache:1:k", "copied")
    await ours.invalidate(["accounts:1"])
    redis_server.command("RENAME", "copy", TABLE)
    redis_server.command("RENAME", "copied", "b1:{n}:cache:1:k")
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: not ours.is_up)
    await until(lambda: ours.versions.is_exact)
    found = (await ours.enter([], read=CacheRead("cache:1:k", TAGS))).cache
    assert found is not None
    assert found.state is CacheState.MISS


async def test_without_the_right_to_subscribe_trips_answer_and_nothing_is_exact(
    make: Make, redis_url: str, redis_server: RedisServer
) -> None:
    redis_server.command("ACL", "SETUSER", "mute", "on", ">secret", "~*", "+@all", "resetchannels")
    try:
        url = redis_url.replace("redis://", "redis://mute:secret@")
        ours, theirs = await make(url), await make(url)
        await until(lambda: ours.is_up and theirs.is_up)
        begun = await trip_vector(ours)
        assert ours.versions.vector(TAGS) == begun
        await theirs.invalidate(["accounts:1"])
        assert not (ours.versions.is_exact or await ours.barrier())
        after = await trip_vector(ours)
        assert (compare(begun, after), ours.versions.vector(TAGS)) == ("hard", after)
    finally:
        redis_server.command("ACL", "DELUSER", "mute")


async def test_an_invalidation_counts_here_before_it_was_sent_and_is_paid_before_the_next_read(
    make: Make, redis_url: str
) -> None:
    ours, theirs = await exact(make, redis_url), await exact(make, redis_url)
    clock = SystemClock()
    store = FallbackStore(ours, MemoryStore(2**20, clock), clock)
    vector = await trip_vector(ours)
    assert await store.store_if_unchanged("cache:1:k", b"old", tags=TAGS, vector=vector, ttl_ms=60_000)
    before = store.versions.vector(TAGS)
    store.invalidate_here(["accounts:1"], soft=["plan:1"])
    assert (compare(before, store.versions.vector(TAGS)), store.owes_invalidations) == ("hard", True)
    found = (await store.enter([], read=CacheRead("cache:1:k", TAGS))).cache
    assert found is not None
    assert (found.state, store.owes_invalidations) == (CacheState.MISS, False)
    assert await theirs.barrier()
    assert compare(before, theirs.versions.vector(TAGS)) == "hard"
    await store.aclose()


async def test_the_mirror_is_not_kept_on_a_link_that_runs(make: Make, redis_url: str) -> None:
    store = await make(redis_url)
    with pytest.raises(RuntimeError, match="before the link is started"):
        store.keep_mirror()


async def test_on_each_connection_the_table_is_read_before_anything_else(make: Make, redis_server: RedisServer) -> None:
    proxy = Proxy(redis_server.port)
    await proxy.listen()
    store = await make(proxy.url)
    is_over = False

    async def ask() -> None:
        while not is_over:
            with contextlib.suppress(StoreUnavailable):
                await trip_vector(store)
            await asyncio.sleep(0)

    askers = [asyncio.create_task(ask()) for _ in range(3)]
    for connects in range(1, 6):
        await until(lambda connects=connects: store.connects == connects and store.versions.is_exact)
        proxy.reset()
    is_over = True
    await asyncio.gather(*askers)
    words = [name for name in proxy.commands if name != "PING"]
    after = {words[at + 1] for at, name in enumerate(words[:-1]) if name == "SUBSCRIBE"}
    assert (after, words.count("SUBSCRIBE") >= 5) == ({"EVAL"}, True)
    await proxy.aclose()
