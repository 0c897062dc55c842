"""Deciding ahead of Redis: one process lets exactly N pass, several a stated bound, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from b1.clock import Clock, SystemClock
from b1.limiter import Caller, Limiter, LimiterOptions, Policy, PolicyTable
from b1.limiter.decision import Decision
from b1.link import Link, LinkOptions
from b1.store.ahead import Ahead
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from tests.servers import RedisServer

QUOTA, SHARE = 100, 0.05
PART = int(QUOTA * SHARE)
TABLE = PolicyTable(
    (Policy("mine", QUOTA, 3600), Policy("ours", 10_000, 3600, scope="organization"), Policy("few", 9, 3600))
)
ANN = Caller("192.0.2.1", actor="ann", organization="acme")


class Process:
    """What one process has: a link, a store and a limiter."""

    def __init__(self, link: Link, store: FallbackStore) -> None:
        self.link = link
        self.store = store
        self.limiter = Limiter(store, TABLE, options=LimiterOptions(penalties=None, is_ahead=True))
        assert store._ahead is not None
        self.ahead: Ahead = store._ahead

    async def ask(self, *names: str, caller: Caller = ANN) -> Decision:
        names = names or ("mine", "ours")
        return self.limiter.check_now(names, caller) or await self.limiter.check(names, caller)

    async def passed(self, count: int) -> int:
        return sum([(await self.ask()).allowed for _ in range(count)])

    async def settled(self) -> None:
        """Wait until Redis has answered all that went out."""
        await until(lambda: not self.ahead.unheard)

    async def paid(self) -> None:
        """Wait until Redis was told of all that passed."""
        await self.settled()
        await until(lambda: self.store.snapshot().reconcile.owed_keys == 0)

    async def used(self, name: str = "mine") -> int:
        """What Redis counts."""
        await self.settled()
        return (await self.limiter.check((name,), ANN, cost=0, commit=False)).states[0].used


@asynccontextmanager
async def process(url: str, slots: Path, clock: Clock | None = None, *, share: float = SHARE) -> AsyncIterator[Process]:
    clock = clock or SystemClock()
    link = Link(LinkOptions(url, slots_dir=slots, deadline_s=5))
    store = FallbackStore(RedisStore(link, "ahead"), MemoryStore(2**20, clock), clock, ahead=share)
    await link.start()
    try:
        await until(lambda: link.is_up)
        yield Process(link, store)
    finally:
        await store.aclose()
        await link.aclose()


@pytest.fixture
async def one(redis_url: str, tmp_path: Path) -> AsyncIterator[Process]:
    async with process(redis_url, tmp_path) as made:
        yield made


async def until(is_true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.005)


async def test_one_process_lets_exactly_the_quota_pass_and_says_what_is_left_as_if_it_had_asked(one: Process) -> None:
    decisions = []
    for _ in range(QUOTA + 10):
        decisions.append(await one.ask())
        await asyncio.sleep(0)
    assert [decision.allowed for decision in decisions] == [True] * QUOTA + [False] * 10
    nearest = [decision.nearest for decision in decisions[:QUOTA]]
    assert [state.remaining for state in nearest if state is not None] == list(range(QUOTA - 1, -1, -1))
    assert {decision.mode for decision in decisions} == {"redis"}
    assert await one.used() == QUOTA
    assert one.ahead.regretted == 0


async def test_most_requests_of_a_caller_need_no_answer_from_redis_first(one: Process) -> None:
    asked = 0
    for _ in range(60):
        asked += one.limiter.check_now(("mine", "ours"), ANN) is None and (await one.ask()).allowed
        await one.settled()
    assert asked == 1  # the first one: nothing was known
    assert one.ahead.decided == 59
    assert await one.used() == 60


async def test_what_goes_out_behind_many_decisions_shares_a_write(one: Process) -> None:
    for number in range(50):
        await one.ask("ours", caller=ANN._replace(actor=f"a{number}"))
    await one.settled()
    before = one.link.snapshot().writes
    for number in range(50):
        assert one.limiter.check_now(("ours",), ANN._replace(actor=f"a{number}")) is not None
        await asyncio.sleep(0)
    await one.settled()
    assert one.link.snapshot().writes - before <= 25
    assert await one.used("ours") == 100


async def test_at_most_a_part_is_unheard_and_the_last_part_is_asked_for(one: Process) -> None:
    await one.ask("mine")
    taken = [one.limiter.check_now(("mine",), ANN) is not None for _ in range(QUOTA)]
    assert taken == [True] * PART + [False] * (QUOTA - PART)
    await one.settled()
    while one.limiter.check_now(("mine",), ANN) is not None:
        await one.settled()
    assert await one.used() == QUOTA - PART


async def test_a_quota_of_which_no_whole_unit_is_the_part_is_always_asked_for(one: Process) -> None:
    for _ in range(9):
        assert (await one.ask("few")).allowed
    assert not (await one.ask("few")).allowed
    assert one.ahead.decided == 0


async def test_a_burst_lets_exactly_the_quota_pass(one: Process) -> None:
    await one.ask()
    decisions = await asyncio.gather(*(one.ask() for _ in range(3 * QUOTA)))
    assert sum(decision.allowed for decision in decisions) == QUOTA - 1
    assert await one.used() == QUOTA


@pytest.mark.parametrize("seed", range(4))
async def test_several_processes_together_keep_the_stated_bound(redis_url: str, tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(process(redis_url, tmp_path / str(number))) for number in range(3)]
        passed = 0
        for _ in range(60):
            burst: list[Awaitable[Decision]] = [pick.choice(made).ask() for _ in range(pick.choice((1, 2, 3, 12)))]
            passed += sum([decision.allowed for decision in await asyncio.gather(*burst)])
            if pick.random() < 0.3:
                await asyncio.sleep(pick.random() * 0.01)
        for one in made:
            await one.settled()
        assert QUOTA <= passed <= QUOTA + (len(made) - 1) * PART
        for one in made:
            await one.paid()
        assert await made[0].used() == passed
        assert not (await made[1].ask()).allowed


async def test_what_others_spent_is_known_after_the_next_answer(redis_url: str, tmp_path: Path) -> None:
    async with process(redis_url, tmp_path / "a") as a, process(redis_url, tmp_path / "b") as b:
        await a.passed(1)
        await a.settled()
        assert await b.passed(QUOTA) == QUOTA - 1
        await b.settled()
        decision = a.limiter.check_now(("mine",), ANN)  # nothing was heard since: a part may pass too much
        assert decision is not None
        assert decision.allowed
        await a.settled()
        assert a.ahead.regretted == 1
        assert a.limiter.check_now(("mine",), ANN) is None
        assert not (await a.ask()).allowed
        assert await a.used() == QUOTA + 1  # it did pass


async def test_lost_data_is_told_to_redis_again(one: Process, redis_server: RedisServer) -> None:
    assert await one.passed(50) == 50
    await one.settled()
    redis_server.command("FLUSHALL")
    assert await one.passed(QUOTA) == QUOTA - 50
    await until(lambda: one.store.snapshot().reconcile.owed_keys == 0)
    assert await one.used() >= QUOTA - 1  # the reply that showed the loss counted its own unit before
    assert not (await one.ask()).allowed


async def test_when_redis_dies_with_questions_on_their_way_nothing_is_lost_or_counted_twice(
    own_redis: Callable[[], RedisServer], tmp_path: Path
) -> None:
    server = own_redis()
    async with process(server.url, tmp_path) as one:
        assert await one.passed(40) == 40
        await one.settled()
        server.suspend()
        before = [one.limiter.check_now(("mine", "ours"), ANN) is not None for _ in range(3)]
        assert before == [True] * 3
        server.resume()
        await one.settled()
        assert await one.used() == 43
        server.kill()
        passed = await one.passed(QUOTA)
        assert passed == QUOTA - 43
        assert one.store.mode == "local"


async def test_questions_that_were_never_answered_are_owed_and_merged_once(
    own_redis: Callable[[], RedisServer], tmp_path: Path
) -> None:
    server = own_redis()
    async with process(server.url, tmp_path) as one:
        assert await one.passed(40) == 40
        await one.settled()
        server.suspend()
        assert all(one.limiter.check_now(("mine", "ours"), ANN) is not None for _ in range(3))
        await asyncio.sleep(0.02)  # they are out, and stay without an answer
        wire = one.link._keeper.wire
        assert wire is not None
        wire.end(ConnectionError("cut"))
        assert not one.ahead.unheard
        assert set(one.store._memory.windows.owed) != set()
        server.resume()
        await until(lambda: one.link.is_up and one.store.snapshot().reconcile.owed_keys == 0)
        assert await one.used() == 43
        assert await one.passed(QUOTA) == QUOTA - 43


async def test_who_left_its_state_to_a_successor_decides_nothing_ahead(one: Process) -> None:
    await one.passed(3)
    await one.settled()
    await one.store.export(2**20, last=True)
    assert one.limiter.check_now(("mine", "ours"), ANN) is None


async def test_a_clock_that_is_wrong_changes_nothing_in_what_is_told(redis_url: str, tmp_path: Path) -> None:
    class Skewed:
        def monotonic(self) -> float:
            return time.monotonic()

        def wall(self) -> float:
            return time.time() + 600

    async with process(redis_url, tmp_path, Skewed()) as one:
        asked = await one.ask("mine")
        ahead = one.limiter.check_now(("mine",), ANN)
        assert ahead is not None
        assert abs(ahead.now_s - asked.now_s) < 60


async def test_without_a_share_redis_is_always_asked_first(redis_url: str, tmp_path: Path) -> None:
    link = Link(LinkOptions(redis_url, slots_dir=tmp_path, deadline_s=5))
    store = FallbackStore(RedisStore(link, "ahead"), MemoryStore(2**20, SystemClock()), SystemClock())
    await link.start()
    try:
        limiter = Limiter(store, TABLE)
        assert (await limiter.check(("mine",), ANN)).allowed
        assert limiter.check_now(("mine",), ANN) is None
    finally:
        await store.aclose()
        await link.aclose()


async def test_what_passed_over_the_quota_is_not_given_out_again_while_the_window_slides(
    redis_url: str, tmp_path: Path
) -> None:
    async with process(redis_url, tmp_path / "a") as a, process(redis_url, tmp_path / "b") as b:
        for one in (a, b):
            one.limiter.replace(PolicyTable((Policy("mine", QUOTA, 1),)))
        passed: list[tuple[float, float]] = []  # in which time it was decided

        async def ask(one: Process, *, first: bool) -> None:
            begun_s = time.monotonic()
            decision = await (one.limiter.check(("mine",), ANN) if first else one.ask("mine"))
            if decision.allowed:
                passed.append((begun_s, time.monotonic()))

        for _ in range(QUOTA):
            await ask(b, first=True)
            await asyncio.sleep(0.008)
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            await a.paid()
            look = await a.limiter.check(("mine",), ANN, cost=0, commit=False)
            left = look.states[0].remaining
            if left > PART:
                await asyncio.gather(*(ask(b, first=True) for _ in range(left)))
                await asyncio.gather(*(ask(a, first=False) for _ in range(PART)))
            await asyncio.sleep(0.01)
        for since_s, _ in passed:
            assert sum(since_s <= begun_s and done_s < since_s + 1 for begun_s, done_s in passed) <= QUOTA + PART
        await a.paid()


async def test_policies_that_share_a_counter_each_keep_their_own_quota(one: Process) -> None:
    one.limiter.replace(PolicyTable((Policy("p", QUOTA, 3600, counter="c"), Policy("q", 40, 3600, counter="c"))))
    passed = {"p": 0, "q": 0}
    for number in range(2 * QUOTA):
        name = "pq"[number % 2]
        passed[name] += (await one.ask(name)).allowed
        await asyncio.sleep(0)
    assert passed == {"p": QUOTA - 20, "q": 20}
    assert one.ahead.decided > 0


@pytest.mark.parametrize("seed", range(3))
async def test_refunds_and_settlements_beside_questions_on_their_way_end_in_agreement(one: Process, seed: int) -> None:
    pick = random.Random(seed)
    balance = 0

    async def once() -> None:
        nonlocal balance
        decision = await one.ask("mine")
        balance += decision.allowed
        if decision.allowed and pick.random() < 0.4:
            await one.limiter.refund(("mine",), ANN)
            balance -= 1
        elif decision.allowed and pick.random() < 0.2:
            await one.limiter.settle(("mine",), ANN, taken=1, actual=3)
            balance += 2

    for _ in range(40):
        await asyncio.gather(*(once() for _ in range(pick.choice((1, 2, 5)))))
    await one.paid()
    assert await one.used() == balance
    window = next(window for key, window in one.store._memory.windows.items() if key.startswith("limit:mine"))
    assert window.total == balance
