"""The Redis store against the memory store: random lives, call by call the same answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from b1.errors import StoreUnavailable
from b1.link import Link, LinkOptions
from b1.store.base import Balance, Charge, Spent
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.testing import StoreHarness

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


class Answering:
    """A link that answers what it was told, as a script of another version might."""

    def __init__(self, reply: object) -> None:
        self.reply = reply

    def register(self, name: str, source: str) -> None: ...

    async def script(self, *_: object) -> object:
        return self.reply


@pytest.mark.parametrize("reply", [None, b"x", [], [1], [9, 9]])
async def test_an_answer_that_nobody_understands_is_no_answer(reply: object) -> None:
    store = RedisStore(Answering(reply), "n")  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="answered"):
        await store.spend([Charge("limit:a:1", 5, 60_000)])
    with pytest.raises(StoreUnavailable, match="answered"):
        await store.claim("k", b"f", lease_ms=1)


async def test_an_answer_becomes_balances() -> None:
    store = RedisStore(Answering([0, 77, 1, 2, 3, 0, 0, 4, 0, 5, 0, 6, 7, 8]), "n")  # type: ignore[arg-type]
    assert await store.spend([Charge("a", 5, 60_000), Charge("b", 5, 60_000)]) == Spent(
        False, 77, (Balance(True, 2, 3, 0, 0, 4), Balance(False, 5, 0, 6, 7, 8))
    )


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b"])
def test_a_namespace_that_would_break_the_hash_tag_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="the namespace is"):
        RedisStore(Answering(None), namespace)  # type: ignore[arg-type]
