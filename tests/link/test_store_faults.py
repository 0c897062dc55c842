"""The link and the stores over a real server that is killed, frozen, flushed and cut off.

What is asserted is who answered and how many clients there were; times have the slack of a busy machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from b1.clock import SystemClock
from b1.errors import StoreUnavailable
from b1.store.base import Charge, ClaimState
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from tests.link.conftest import Census, MakeLink, until
from tests.servers import RedisServer

pytestmark = pytest.mark.real

OwnRedis = Callable[[], RedisServer]
CHARGE = Charge("limit:a:1", 1_000_000, 60_000)


async def _in_thread(work: Callable[[], object]) -> None:
    await asyncio.to_thread(work)


async def _store(link_of: MakeLink, url: str, **options: float) -> tuple[FallbackStore, Callable[[], bool]]:
    clock = SystemClock()
    link = link_of(url, **options)
    store = FallbackStore(RedisStore(link, "faults"), MemoryStore(2**20, clock), clock)
    await link.start()
    return store, lambda: link.is_up


async def test_a_server_killed_in_mid_burst_costs_no_answer_and_is_used_again(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    store, is_up = await _store(make_link, server.url)
    await until(is_up)
    is_over = False
    answers: list[bool] = []

    async def caller() -> None:
        while not is_over:
            answers.append((await store.spend([CHARGE])).allowed)
            # Without a pause memory answers the whole quota of a million while the server's process starts.
            await asyncio.sleep(0.002)

    callers = [asyncio.create_task(caller()) for _ in range(20)]
    await until(lambda: len(answers) > 500)
    await _in_thread(server.kill)
    seen = len(answers)
    await until(lambda: len(answers) > seen + 500)
    assert store.mode == "local"
    await _in_thread(server.start)
    back_s = await until(lambda: store.mode == "redis")
    is_over = True
    await asyncio.gather(*callers)
    assert all(answers)
    assert back_s < 5  # the promise is 2 s; this machine is shared
    assert store.snapshot().switches == 2


async def test_while_redis_is_away_a_call_fails_without_a_wait(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url)
    await link.start()
    await _in_thread(server.kill)
    await until(lambda: not link.is_up)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    for _ in range(100):
        with pytest.raises(StoreUnavailable):
            await link.call("PING")
    counting.cancel()
    assert turns == 0  # not one of them gave the loop away


async def test_a_frozen_server_is_answered_for_from_memory_and_keeps_its_connection(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=0.25)
    clock = SystemClock()
    store = FallbackStore(RedisStore(link, "faults"), MemoryStore(2**20, clock), clock)
    await link.start()
    await store.spend([CHARGE])
    server.suspend()
    try:
        started_s = time.monotonic()
        answers = await asyncio.gather(*(store.spend([CHARGE]) for _ in range(50)))
        assert all(answer.allowed for answer in answers)
        assert time.monotonic() - started_s < 5  # once the deadline of 0.25 s, not 50 times
        assert (store.mode, link.snapshot().state) == ("local", "stalled")
        assert link.snapshot().timeouts == 50
        assert (await store.spend([CHARGE])).allowed
        assert link.snapshot().timeouts == 50
    finally:
        server.resume()
    await until(lambda: link.is_up)
    assert (await store.spend([CHARGE])).allowed
    assert store.mode == "redis"
    assert link.snapshot().connects == 1


async def test_a_server_frozen_for_too_long_gets_a_new_connection(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=0.1, stall_limit_s=0.2)
    await link.start()
    server.suspend()
    try:
        with pytest.raises(StoreUnavailable):
            await link.call("PING")
        await until(lambda: link.snapshot().state in ("away", "connecting"))
    finally:
        server.resume()
    await until(lambda: link.is_up)
    assert link.snapshot().connects == 2


async def test_never_more_than_one_client_whatever_happens(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=0.2)
    store = RedisStore(link, "faults")
    with Census(server.port) as census:
        await link.start()

        async def burst() -> None:
            await asyncio.gather(*(store.spend([CHARGE]) for _ in range(200)), return_exceptions=True)

        for _ in range(5):
            await burst()
            connects = link.snapshot().connects
            await _in_thread(lambda: server.command("CLIENT", "KILL", "TYPE", "normal"))
            await burst()
            await until(lambda n=connects: link.snapshot().connects > n and link.is_up)  # type: ignore[misc]
        server.suspend()
        await burst()
        server.resume()
        await until(lambda: link.is_up)
        await _in_thread(server.kill)
        await burst()
        await _in_thread(server.start)
        await until(lambda: link.is_up)
        await burst()
        samples = census.samples
        await until(lambda: census.samples > samples + 20)
    assert census.samples > 50
    assert census.most <= 2
    assert link.snapshot().connects >= 7


async def test_a_link_started_before_its_server_comes_up_by_itself(
    make_link: MakeLink, own_redis: OwnRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_redis()
    await _in_thread(server.kill)
    link = make_link(server.url)
    await link.start()
    assert link.snapshot().state == "away"
    assert link.snapshot().last_error
    await asyncio.sleep(0.5)  # some attempts
    assert [record.message for record in caplog.records if record.name == "b1.link"] == ["redis away"]
    await _in_thread(server.start)
    assert await until(lambda: link.is_up) < 5


async def test_a_password_is_used_and_a_wrong_one_reported(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    server.command("CONFIG", "SET", "requirepass", "s3cret")
    wrong = make_link(server.url.replace("redis://", "redis://:wrong@"))
    await wrong.start()
    assert not wrong.is_up
    assert "password" in (wrong.snapshot().last_error or "").lower()
    right = make_link(server.url.replace("redis://", "redis://:s3cret@"), deadline_s=10)
    await right.start()
    assert await right.call("PING") == b"PONG"


async def test_errors_of_the_server_are_answered_for_from_memory(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    store, _ = await _store(make_link, redis_server.url, deadline_s=10)
    redis_server.command("LPUSH", "b1:{faults}:limit:a:1", "somebody else's")
    assert (await store.spend([CHARGE])).allowed
    assert store.mode == "redis"  # one foreign key says nothing about the server
    assert (await store.spend([Charge("limit:b:1", 5, 60_000)])).allowed
    assert store.mode == "redis"
    assert redis_server.command("TYPE", "b1:{faults}:limit:a:1") == b"+list"


async def test_a_server_out_of_memory_is_answered_for_from_memory(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    store, _ = await _store(make_link, server.url, deadline_s=10)
    server.command("CONFIG", "SET", "maxmemory", "1")
    assert (await store.spend([CHARGE])).allowed
    assert (await store.claim("idempotency:o:k", b"f", lease_ms=1000)).state is ClaimState.CLAIMED
    assert store.mode == "local"
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert (await store.spend([CHARGE])).allowed
    assert store.mode == "redis"


async def test_a_server_that_became_a_replica_is_left_and_taken_back(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=10)
    store = RedisStore(link, "faults")
    await link.start()
    server.command("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await store.spend([CHARGE])
    server.command("REPLICAOF", "NO", "ONE")
    await until(lambda: link.snapshot().connects > 1 and link.is_up)
    assert (await store.spend([CHARGE])).allowed


async def test_every_key_has_an_expiry_after_callers_were_cancelled(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    link = make_link(redis_server.url, deadline_s=10)
    store = RedisStore(link, "faults")
    await link.start()

    async def use(number: int) -> None:
        await store.spend([Charge(f"limit:a:{number % 7}", 50, 60_000), Charge(f"limit:b:{number}", 5, 1000)])
        claim = await store.claim(f"idempotency:o:{number}", b"f", lease_ms=10_000)
        if number % 3 == 0:
            await store.renew(f"idempotency:o:{number}", claim.fence, lease_ms=10_000)
            await store.finish(f"idempotency:o:{number}", claim.fence, b"r", ttl_ms=10_000)
        elif number % 3 == 1:
            await store.release(f"idempotency:o:{number}", claim.fence)

    tasks = [asyncio.create_task(use(number)) for number in range(200)]
    for turn, task in enumerate(tasks):
        if turn % 2:
            await asyncio.sleep(0)
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    keys = await link.call("KEYS", "*")
    lives = await asyncio.gather(*(link.call("PTTL", key) for key in keys))
    assert len(keys) > 100
    assert all(key.startswith(b"b1:{faults}:") for key in keys)
    assert -1 not in lives
