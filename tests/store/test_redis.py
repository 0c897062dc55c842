"""The Redis store against the memory store: random lives, call by call the same answers."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from b1.errors import StoreUnavailable
from b1.link import Link, LinkOptions, ReplyError
from b1.store.base import Balance, CacheRead, CacheState, Charge, PenaltyRule, Spent
from b1.store.claims import Kept
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.store.tally import Batch, Tally
from b1.store.window import Part
from b1.testing import StoreHarness
from tests.servers import RedisServer
from tests.store.distant import Distant

KEYS = ("limit:a:1", "limit:a:2", "limit:b:1")
# Not shorter: keys expire by the server's own clock, which does not stand still.
WINDOWS_MS = (59_999, 60_000, 90_007, 3_600_000)
STEPS = (0, 0, 0, 0.001, 0.02, 0.5, 1, 1.01, 3)


def _charges(chance: random.Random, window_ms: int) -> list[Charge]:
    return [
        Charge(key, chance.choice((1, 2, 5, 30)), window_ms, chance.choice((0, 1, 1, 1, 2, 6)), chance.random() < 0.1)
        for key in chance.sample(KEYS, chance.randint(1, 3))
    ]


@pytest.mark.parametrize("seed", range(12))
async def test_redis_answers_as_memory_does(seed: int, redis_url: str, tmp_path: Path) -> None:
    chance = random.Random(seed)
    clock = StoreHarness.clock_at_start()
    clock.advance(chance.random() * 1000)
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    # int(), as the memory store rounds: both must see the same millisecond.
    redis, memory = RedisStore(link, "same", now_ms=lambda: int(clock.monotonic() * 1000)), MemoryStore(2**20, clock)
    await link.start()
    window_ms = WINDOWS_MS[seed % len(WINDOWS_MS)]
    for step in range(250):
        clock.advance(chance.choice(STEPS) * window_ms / 1000)
        charges = _charges(chance, window_ms if chance.random() < 0.99 else 100_000)
        if chance.random() < 0.1:
            await redis.refund(charges)
            await memory.refund(charges)
            continue
        commit = chance.random() < 0.9
        expected = await memory.spend(charges, commit=commit)
        assert await redis.spend(charges, commit=commit) == expected, f"seed {seed}, step {step}"
    await link.aclose()


async def test_a_record_of_a_later_version_counts_as_an_empty_window(redis_url: str, tmp_path: Path) -> None:
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    store = RedisStore(link, "later")
    await link.start()
    for value in (b"\x02 something that is yet to come", b""):
        await link.call("SET", "b1:{later}:limit:a:1", value)
        spent = await store.spend([Charge("limit:a:1", 5, 60_000)])
        assert (spent.allowed, spent.balances[0].used) == (True, 1)
    await link.aclose()


async def test_a_claim_that_nobody_finishes_leaves_redis_by_itself(redis_url: str, tmp_path: Path) -> None:
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    store = RedisStore(link, "n")
    await link.start()
    await store.claim("idempotency:o:k", b"f", lease_ms=1000)
    left_ms = await link.call("PTTL", "b1:{n}:idempotency:o:k")
    assert 0 < left_ms <= 61_000
    await link.aclose()


@pytest.fixture
async def redis(redis_url: str, tmp_path: Path) -> AsyncIterator[RedisStore]:
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    store = RedisStore(link, "n")
    await link.start()
    yield store
    await link.aclose()


READ = CacheRead("cache:1:k", ("t",), lease_ms=1000)
VERBS: dict[str, Callable[[RedisStore], Awaitable[object]]] = {
    "limit:a:1": lambda store: store.spend([Charge("limit:a:1", 5, 60_000)]),
    "idempotency:1:k": lambda store: store.claim("idempotency:1:k", b"f", lease_ms=1000),
    "penalty:1": lambda store: store.penalise("penalty:1", PenaltyRule()),
    "events:1": lambda store: store.append("events:1", b"x", keep=1, keep_bytes=1, ttl_ms=1000),
    "events:1:sums": lambda store: store.read_since("events:1", 1, limit=1),
    "cache:versions": lambda store: store.enter([Charge("limit:b:1", 5, 60_000)], read=READ),
}


@pytest.mark.parametrize("key", VERBS)
async def test_something_else_under_our_key_is_an_error_that_says_so_and_changes_nothing(
    redis: RedisStore, redis_server: RedisServer, key: str
) -> None:
    redis_server.command("LPUSH", f"b1:{{n}}:{key}", "somebody else's")
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await VERBS[key](redis)
    assert redis_server.command("DBSIZE") == b":1"


@pytest.mark.parametrize("length", [1, 20, 264, 266, 5000])
async def test_a_damaged_window_is_an_error_that_says_so(
    redis: RedisStore, redis_server: RedisServer, length: int
) -> None:
    redis_server.command("SET", "b1:{n}:limit:a:1", "\x01" + "x" * (length - 1))
    with pytest.raises(ReplyError, match=f"a window has {length} bytes"):
        await redis.spend([Charge("limit:a:1", 5, 60_000)])
    with pytest.raises(ReplyError, match=f"a window has {length} bytes"):
        await redis.refund([Charge("limit:a:1", 5, 60_000)])


async def test_a_damaged_version_table_is_an_error_and_nothing_is_spent(
    redis: RedisStore, redis_server: RedisServer
) -> None:
    redis_server.command("SET", "b1:{n}:cache:versions", "short")
    with pytest.raises(ReplyError, match="version table has 5 bytes"):
        await redis.enter([Charge("limit:a:1", 5, 60_000)], read=READ)
    with pytest.raises(ReplyError, match="version table has 5 bytes"):
        await redis.invalidate(["t"])
    assert redis_server.command("EXISTS", "b1:{n}:limit:a:1") == b":0"


@pytest.mark.parametrize("cut", [0, 1, 5, 13, 17, 21, 25, 28, 34])
async def test_a_truncated_entry_is_none(redis: RedisStore, redis_server: RedisServer, cut: int) -> None:
    begun = (await redis.enter([], read=READ)).cache
    assert begun is not None
    assert await redis.store_if_unchanged("cache:1:k", b"0123456789", tags=("t",), vector=begun.vector, ttl_ms=60_000)
    whole = await redis._link.call("GET", "b1:{n}:cache:1:k")
    assert len(whole) == 2 + 4 + 8 + 8 + 4 + 10
    await redis._link.call("SET", "b1:{n}:cache:1:k", whole[:cut])
    found = (await redis.enter([], read=READ)).cache
    assert found is not None
    assert found.state is CacheState.LEASED


async def test_something_else_under_an_entrys_or_a_leases_key_is_replaced(
    redis: RedisStore, redis_server: RedisServer
) -> None:
    for key in ("cache:1:k", "cache:1:k:lease"):
        redis_server.command("LPUSH", f"b1:{{n}}:{key}", "somebody else's")
    begun = (await redis.enter([], read=READ)).cache
    assert begun is not None
    assert begun.state is CacheState.LEASED
    assert await redis.store_if_unchanged("cache:1:k", b"v", tags=("t",), vector=begun.vector, ttl_ms=60_000)
    found = (await redis.enter([], read=READ)).cache
    assert (found and found.value) == b"v"


async def test_a_lost_version_table_makes_everything_stale(redis: RedisStore, redis_server: RedisServer) -> None:
    begun = (await redis.enter([], read=READ)).cache
    assert begun is not None
    assert await redis.store_if_unchanged("cache:1:k", b"v", tags=("t",), vector=begun.vector, ttl_ms=60_000)
    redis_server.command("DEL", "b1:{n}:cache:versions")
    assert not await redis.store_if_unchanged("cache:1:k", b"v", tags=("t",), vector=begun.vector, ttl_ms=60_000)
    found = (await redis.enter([], read=READ)).cache
    assert found is not None
    assert found.state is CacheState.LEASED


async def test_a_script_that_the_server_forgot_is_loaded_again(redis: RedisStore, redis_server: RedisServer) -> None:
    redis_server.command("SCRIPT", "FLUSH")
    entered = await redis.enter([Charge("limit:a:1", 5, 60_000)], read=READ)
    assert (entered.spent.balances[0].used, entered.cache and entered.cache.state) == (1, CacheState.LEASED)


async def test_a_read_behind_an_invalidation_sees_it_also_when_the_server_forgot_the_script(
    redis: RedisStore, redis_server: RedisServer
) -> None:
    begun = (await redis.enter([], read=READ)).cache
    assert begun is not None
    assert await redis.store_if_unchanged("cache:1:k", b"v", tags=("t",), vector=begun.vector, ttl_ms=60_000)
    redis_server.command("SCRIPT", "FLUSH")
    assert (await redis.enter([], read=READ)).cache is not None  # this one is known again
    _, entered = await asyncio.gather(redis.invalidate(["t"]), redis.enter([], read=READ))
    assert entered.cache is not None
    assert entered.cache.state is CacheState.LEASED


async def test_every_key_but_the_version_table_has_an_expiry(redis: RedisStore) -> None:
    await redis.enter([Charge("limit:a:1", 5, 60_000)], read=READ)
    begun = (await redis.enter([], read=READ)).cache
    assert begun is not None
    await redis.store_if_unchanged("cache:1:k", b"v", tags=("t",), vector=begun.vector, ttl_ms=60_000)
    await redis.penalise("penalty:1", PenaltyRule())
    await redis.append("events:1", b"x", keep=10, keep_bytes=100, ttl_ms=1000)
    await redis.adopt(Kept("idempotency:1:k", b"f", 0, b"r", 5000))
    parts = [Part(10, 1, 1)]
    await redis.merge(Batch("p:1", (Tally("limit:b:1", 60_000, parts),), 0, is_owed=True), waited_ms=0)
    keys = await redis._link.call("KEYS", "*")
    lasting = [key for key in keys if await redis._link.call("PTTL", key) == -1]
    assert len(keys) == 9
    assert lasting == [b"b1:{n}:cache:versions"]


@pytest.mark.parametrize("seed", range(4))
async def test_penalties_are_the_same_in_redis_and_memory(seed: int, redis_url: str, tmp_path: Path) -> None:
    chance, clock = random.Random(seed), StoreHarness.clock_at_start()
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    redis, memory = RedisStore(link, "same", now_ms=lambda: int(clock.monotonic() * 1000)), MemoryStore(2**20, clock)
    await link.start()
    # Long enough that no key expires by the server's own clock.
    rule = PenaltyRule(3, 600_000, (3_600_000, 7_200_000, 36_000_000), 86_400_000)
    for step in range(150):
        clock.advance(chance.choice((0, 0, 1, 599.999, 600, 3600, 7200, 40_000, 90_000)))
        strikes, pardon = chance.choice((0, 1, 1, 2, 5)), chance.random() < 0.02
        expected = await memory.penalise("penalty:1", rule, strikes=strikes, pardon=pardon)
        assert await redis.penalise("penalty:1", rule, strikes=strikes, pardon=pardon) == expected, f"step {step}"
    await link.aclose()


@pytest.mark.parametrize("seed", range(8))
async def test_merged_windows_are_the_sum_that_an_oracle_finds(seed: int, redis_url: str, tmp_path: Path) -> None:
    chance, clock = random.Random(seed), StoreHarness.clock_at_start()
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    redis, oracle = RedisStore(link, "same", now_ms=lambda: int(clock.monotonic() * 1000)), Distant(clock)
    await link.start()
    window_ms = chance.choice((59_999, 60_000, 3_600_000))
    look = [Charge("limit:a:1", 1000, window_ms, 0)]
    for number in range(60):
        clock.advance(chance.choice((0, 0.001, 0.02, 0.3, 1.1)) * window_ms / 1000)
        if chance.random() < 0.4:
            charge = [Charge("limit:a:1", 1000, window_ms, chance.randint(1, 5))]
            assert await redis.spend(charge) == await oracle.spend(charge)
        ages = sorted({chance.randint(0, window_ms) for _ in range(chance.randint(1, 6))}, reverse=True)
        parts = [Part(age, chance.choice((0, 0, 3, 10)), chance.choice((0, 1, 4))) for age in ages]
        tally = Tally("limit:a:1", window_ms, parts)
        batch = Batch(f"p:{number}", (tally,), 0, is_owed=any(part.owed for part in parts))
        for _ in range(2):  # the second time changes nothing
            await redis.merge(batch, waited_ms=0)
            await oracle.merge(batch, waited_ms=0)
            assert await redis.spend(look) == await oracle.spend(look), f"seed {seed}, merge {number}"
    await link.aclose()


class Answering:
    """A link that answers what it was told, as a script of another version might."""

    def __init__(self, reply: object) -> None:
        self.reply = reply

    def register(self, name: str, source: str) -> None: ...

    async def script(self, *_: object) -> object:
        return self.reply

    def packed(self, *_: object) -> bytes:
        return b""

    def post(self, _: bytes, reply: asyncio.Future[object]) -> None:
        reply.set_result(self.reply)


@pytest.mark.parametrize("reply", [None, b"x", [], [1], [9, 9]])
async def test_an_answer_that_nobody_understands_is_no_answer(reply: object) -> None:
    store = RedisStore(Answering(reply), "n")  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="answered"):
        await store.spend([Charge("limit:a:1", 5, 60_000)])
    with pytest.raises(StoreUnavailable, match="answered"):
        await store.claim("k", b"f", lease_ms=1)


async def test_an_answer_becomes_balances() -> None:
    answer = struct.pack(">?q?IIqqq?IIqqq", False, 77, True, 2, 3, 0, 0, 4, False, 5, 0, 6, 7, 8)
    store = RedisStore(Answering(answer), "n")  # type: ignore[arg-type]
    assert await store.spend([Charge("a", 5, 60_000), Charge("b", 5, 60_000)]) == Spent(
        False, 77, (Balance(True, 2, 3, 0, 0, 4), Balance(False, 5, 0, 6, 7, 8))
    )


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b"])
def test_a_namespace_that_would_break_the_hash_tag_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="the namespace is"):
        RedisStore(Answering(None), namespace)  # type: ignore[arg-type]
