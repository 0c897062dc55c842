"""Decisions over windows, buckets, leases and offenders: Redis and memory call by call the same, and one round trip."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from b1.link import Link, LinkOptions, ReplyError
from b1.store.base import CacheRead, CacheState, Charge, PenaltyRule
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.store.tally import Drained
from b1.store.terms import Offender, Terms
from b1.testing import StoreHarness
from tests.servers import RedisServer

RULE = PenaltyRule(threshold=4, decay_ms=20_000, blocks_ms=(30_000, 90_000), forget_ms=600_000, apart_ms=500)
KEYS = ("limit:a:1", "limit:b:1", "gcra:a:1", "gcra:b:1", "lease:a:1")
# Not shorter: keys expire by the server's own clock, which does not stand still.
STEPS_S = (0, 0, 0, 0.001, 0.4, 1, 7, 31, 61)
BUCKET = Charge("gcra:a:1", 60, 60_000, 1, False, "bucket", 5)
LEASE = Charge("lease:a:1", 2, 60_000, 1, False, "lease")


@pytest.fixture
async def link(redis_url: str, tmp_path: Path) -> AsyncIterator[Link]:
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    await link.start()
    yield link
    await link.aclose()


def _charges(chance: random.Random) -> list[Charge]:
    found = []
    for key in chance.sample(KEYS, chance.randint(1, 4)):
        quota, cost, shadow = chance.choice((1, 3, 7, 40)), chance.choice((0, 1, 1, 1, 2, 9)), chance.random() < 0.1
        if key.startswith("gcra"):
            found.append(Charge(key, quota, 60_007, cost, shadow, "bucket", chance.choice((0, 1, 5))))
        elif key.startswith("lease"):
            found.append(Charge(key, 2, 90_000, min(cost, 2), shadow, "lease"))
        else:
            found.append(Charge(key, quota, 60_007, cost, shadow))
    return found


def _terms(chance: random.Random, holder: str) -> Terms:
    if chance.random() < 0.08:
        return Terms(holder=holder, is_forced=True)
    if chance.random() < 0.2:
        return Terms(holder=holder)
    return Terms(Offender("penalty:1", RULE, chance.choice((0, 1, 1, 2)), chance.choice((0, 0, 0, 2, 9))), holder)


@pytest.mark.parametrize("seed", range(10))
async def test_redis_decides_as_memory_does(seed: int, link: Link) -> None:
    chance = random.Random(seed)
    clock = StoreHarness.clock_at_start()
    clock.advance(chance.random() * 1000)
    # int(), as the memory store rounds: both must see the same millisecond.
    redis, memory = RedisStore(link, "same", now_ms=lambda: int(clock.monotonic() * 1000)), MemoryStore(2**20, clock)
    holders: list[tuple[str, list[Charge]]] = []
    for step in range(200):
        clock.advance(chance.choice(STEPS_S))
        if holders and chance.random() < 0.15:
            holder, charges = holders.pop(chance.randrange(len(holders)))
            await redis.refund(charges, holder=holder)
            await memory.refund(charges, holder=holder)
            continue
        charges, terms, commit = _charges(chance), _terms(chance, str(step)), chance.random() < 0.9
        expected = await memory.spend(charges, commit=commit, terms=terms)
        assert await redis.spend(charges, commit=commit, terms=terms) == expected, f"seed {seed}, step {step}"
        if commit and expected.allowed:
            holders.append((str(step), charges))


async def test_a_decision_with_everything_is_one_round_trip(link: Link) -> None:
    store = RedisStore(link, "n")
    charges = [Charge(f"limit:{policy}:1", 9, 60_000) for policy in "abcd"]
    read = CacheRead("cache:1:k", ("t",), lease_ms=1000)
    before = link.snapshot().calls
    entered = await store.enter([*charges, BUCKET, LEASE], read=read, terms=Terms(Offender("penalty:1", RULE), "me"))
    assert link.snapshot().calls == before + 1
    assert entered.spent.allowed
    assert entered.spent.penalty == (0, 0, 0)
    assert entered.cache is not None
    assert entered.cache.state is CacheState.LEASED


async def test_everything_that_a_decision_writes_expires(link: Link, redis_server: RedisServer) -> None:
    store = RedisStore(link, "n")
    terms = Terms(Offender("penalty:1", RULE, 2), "me")
    for quota in (9, 0):
        await store.spend([Charge("limit:a:1", quota, 60_000), BUCKET, LEASE], terms=terms)
    await store.be_present("p", for_ms=1000)
    for key in ("limit:a:1", "gcra:a:1", "lease:a:1", "penalty:1", "store:processes"):
        assert 0 < await link.call("PTTL", f"b1:{{n}}:{key}") <= 600_000 * 2, key
    assert redis_server.command("DBSIZE") == b":5"


@pytest.mark.parametrize("key", ["limit:a:1", "gcra:a:1", "lease:a:1", "penalty:1"])
async def test_something_else_under_our_key_is_an_error_and_nothing_was_taken(
    link: Link, redis_server: RedisServer, key: str
) -> None:
    store = RedisStore(link, "n")
    redis_server.command("LPUSH", f"b1:{{n}}:{key}", "somebody else's")
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await store.spend(
            [Charge("limit:b:1", 9, 60_000), Charge("limit:a:1", 9, 60_000), BUCKET, LEASE],
            terms=Terms(Offender("penalty:1", RULE), "me"),
        )
    assert redis_server.command("DBSIZE") == b":1"


async def test_a_window_and_a_bucket_under_one_key_are_no_errors_to_each_other(link: Link) -> None:
    store = RedisStore(link, "n")
    window = Charge("limit:a:1", 5, 60_000)
    bucket = Charge("limit:a:1", 5, 60_000, 1, False, "bucket", 5)
    for charge in (window, bucket, window, bucket):
        assert (await store.spend([charge])).balances[0].used == 1


async def test_processes_that_share_a_server_are_counted_until_they_leave_or_are_forgotten(link: Link) -> None:
    clock = StoreHarness.clock_at_start()
    store = RedisStore(link, "n", now_ms=lambda: int(clock.monotonic() * 1000))
    counts = [await store.be_present(name, for_ms=60_000) for name in ("a", "b", "a", "c")]
    assert counts == [1, 2, 2, 3]
    assert await store.be_present("b", for_ms=0) == 2
    clock.advance(61)
    assert await store.be_present("d", for_ms=60_000) == 1


async def test_a_bucket_is_never_fuller_than_it_was_elsewhere(link: Link) -> None:
    clock = StoreHarness.clock_at_start()
    store = RedisStore(link, "n", now_ms=lambda: int(clock.monotonic() * 1000))
    await store.spend([BUCKET])
    second_us = 1_000_000
    await store.drain([Drained(BUCKET.key, 2 * second_us, 3 * second_us, 5 * second_us)])
    assert (await store.spend([BUCKET], commit=False)).balances[0].used == 3
    await store.drain([Drained(BUCKET.key, 9 * second_us, 9 * second_us, 5 * second_us)])
    assert (await store.spend([BUCKET], commit=False)).balances[0].used == 5
    await store.drain([Drained("gcra:lost:1", 0, 4 * second_us, 5 * second_us)])
    lost = Charge("gcra:lost:1", 60, 60_000, 1, False, "bucket", 5)
    assert (await store.spend([lost], commit=False)).balances[0].used == 4


async def test_hosts_whose_clocks_differ_share_one_quota_and_one_penalty(link: Link) -> None:
    stores = []
    for skew_s in (0.0, 60.0, -60.0):
        clock = StoreHarness.clock_at_start()
        clock.advance(skew_s)
        stores.append(FallbackStore(RedisStore(link, "n"), MemoryStore(2**20, clock), clock))
    charge, bucket = Charge("limit:p:1", 20, 3_600_000), Charge("gcra:p:1", 20, 3_600_000, 1, False, "bucket")
    for charges in ([charge], [bucket]):
        answers = await asyncio.gather(*(store.spend(charges) for _ in range(20) for store in stores))
        assert sum(answer.allowed for answer in answers) == 20
    terms = Terms(Offender("penalty:1", PenaltyRule(threshold=1)))
    await stores[0].spend([charge], terms=terms)
    blocked = [(await store.spend([Charge("limit:q:1", 5, 60_000)], terms=terms)).penalty for store in stores]
    assert all(penalty is not None and 50_000 < penalty.blocked_ms <= 60_000 for penalty in blocked)
    for store in stores:
        await store.aclose()
