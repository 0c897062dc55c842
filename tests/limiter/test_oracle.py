"""What no traffic may bring about, in memory and in Redis: too many in a window, or capacity that stays away."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from b1.clock import ManualClock
from b1.link import Link, LinkOptions
from b1.store.base import Charge, Store
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.testing import StoreHarness

WINDOW_MS, QUOTA = 60_007, 7
COUNTER_MS = -(-WINDOW_MS // 60)


@pytest.fixture(params=["memory", "redis"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreHarness]:
    clock = StoreHarness.clock_at_start()
    if request.param == "memory":
        yield StoreHarness(MemoryStore(2**20, clock), clock)
        return
    url = request.getfixturevalue("redis_url")
    link = Link(LinkOptions(url, deadline_s=10, slots_dir=tmp_path / "slots"))
    await link.start()
    yield StoreHarness(RedisStore(link, "oracle", now_ms=lambda: int(clock.monotonic() * 1000)), clock)
    await link.aclose()


def _now_ms(clock: ManualClock) -> int:
    return int(clock.monotonic() * 1000)


class Oracle:
    """Slow and obvious: every unit that was let pass, with its moment."""

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.spent: list[tuple[int, int]] = []

    def judge(self, now_ms: int, cost: int, allowed: bool) -> None:
        within = self._since(now_ms - WINDOW_MS)
        within_and_late = self._since(now_ms - WINDOW_MS - COUNTER_MS)
        assert not (allowed and within + cost > self.quota), f"{within} + {cost} in a window that ends at {now_ms}"
        assert allowed or within_and_late + cost > self.quota, "refused although everything should be back"
        if allowed:
            self.spent.append((now_ms, cost))

    def _since(self, after_ms: int) -> int:
        return sum(units for at_ms, units in self.spent if at_ms > after_ms)


def _random_traffic(chance: random.Random) -> Iterator[tuple[float, int]]:
    for _ in range(250):
        step = chance.choice((0, 0, 0, 0.001, 0.9, 1.0, 1.001, 5, 30, 59.9, 60.007, 61.1, 200))
        yield step, chance.choice((0, 1, 1, 1, 2, 7, 8))


def _boundary_attack(chance: random.Random) -> Iterator[tuple[float, int]]:
    """Spend all just before a boundary and again just after it, wherever somebody may have put one."""
    for _ in range(30):
        yield chance.choice((59.999, 60.006, 60.007, 60.008, 61.007, 61.008, 1.0001, 30)), 1
        for _ in range(QUOTA):
            yield chance.choice((0, 0, 0.001)), 1


@pytest.mark.parametrize("traffic", [_random_traffic, _boundary_attack], ids=["random", "boundary"])
@pytest.mark.parametrize("seed", range(3))
async def test_no_window_holds_more_than_the_quota_and_capacity_comes_back_in_time(
    harness: StoreHarness, traffic: type, seed: int
) -> None:
    chance = random.Random(seed)
    harness.clock.advance(chance.random() * 100)
    oracle = Oracle(QUOTA)
    for step_s, cost in traffic(chance):
        harness.clock.advance(step_s)
        spent = await harness.store.spend([Charge("limit:p:1", QUOTA, WINDOW_MS, cost)])
        oracle.judge(_now_ms(harness.clock), cost, spent.allowed)


@pytest.mark.parametrize("seed", range(3))
async def test_a_clock_that_jumps_lets_no_more_pass(harness: StoreHarness, seed: int) -> None:
    """Time is what the clock shows, or showed when the last unit passed, whichever is later."""
    chance = random.Random(seed)
    spent: list[int] = []
    for _ in range(250):
        step_s = chance.choice((0, 0, 0, 0.5, 3, 20, -1, -15, -40, 61, 500))
        newest_ms = spent[-1] if spent else 0
        if newest_ms - _now_ms(harness.clock) - step_s * 1000 < WINDOW_MS:  # beyond a window it was set, not adjusted
            harness.clock.advance(step_s)
        at_ms = max(newest_ms, _now_ms(harness.clock))
        answer = await harness.store.spend([Charge("limit:p:1", QUOTA, WINDOW_MS)])
        if answer.allowed:
            spent.append(at_ms)
            assert sum(before > at_ms - WINDOW_MS for before in spent) <= QUOTA
    assert len(spent) > 50


async def _is_allowed(store: Store, cost: int) -> tuple[bool, int]:
    answer = await store.spend([Charge("gcra:p:1", 13, WINDOW_MS, cost, False, "bucket", 5)])
    return answer.allowed, answer.balances[0].remaining


@pytest.mark.parametrize("seed", range(3))
async def test_a_bucket_is_one_that_fills_evenly(harness: StoreHarness, seed: int) -> None:
    chance = random.Random(seed)
    every_ms = Fraction(-(-WINDOW_MS * 1000 // 13), 1000)
    held, before_ms = Fraction(5), _now_ms(harness.clock)
    for _ in range(200):
        harness.clock.advance(chance.choice((0, 0, 0.001, 1, 4.616, 4.617, 9, 30)))
        now_ms = _now_ms(harness.clock)
        held, before_ms = min(Fraction(5), held + (now_ms - before_ms) / every_ms), now_ms
        cost = chance.choice((0, 1, 1, 2, 5, 6))
        expected = cost <= held
        if expected:
            held -= cost
        assert await _is_allowed(harness.store, cost) == (expected, int(held))
