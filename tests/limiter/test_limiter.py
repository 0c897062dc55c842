"""The limiter's decisions, over a real memory store and a clock that stands still."""

from __future__ import annotations

import asyncio

import pytest

from b1.clock import ManualClock
from b1.errors import ConfigurationError
from b1.limiter import DEFAULT_POLICIES, Caller, Limiter, Policy, PolicyTable
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness

MEMBER = Caller("1.2.3.4", "7", "1", "MEMBER", "pro")


@pytest.fixture
def clock() -> ManualClock:
    return StoreHarness.clock_at_start()


@pytest.fixture
def limiter(clock: ManualClock) -> Limiter:
    store = MemoryStore(2**20, clock)
    return Limiter(store, DEFAULT_POLICIES, local=store)


def _limiter(clock: ManualClock, *policies: Policy, enabled: bool = True) -> Limiter:
    return Limiter(MemoryStore(2**20, clock), PolicyTable(policies), enabled=enabled)


async def test_a_member_on_pro_reads_exactly_100_entities_a_minute(limiter: Limiter) -> None:
    answers = [(await limiter.check(("entities",), MEMBER)).allowed for _ in range(110)]
    assert answers == [True] * 100 + [False] * 10


async def test_the_exact_quota_passes_when_all_ask_at_once(limiter: Limiter) -> None:
    answers = await asyncio.gather(*(limiter.check(("delete",), MEMBER) for _ in range(100)))
    assert sum(answer.allowed for answer in answers) == 5


async def test_a_refusal_says_everything(limiter: Limiter, clock: ManualClock) -> None:
    for _ in range(5):
        await limiter.check(("general", "delete"), MEMBER)
    clock.advance(10)
    decision = await limiter.check(("general", "delete"), MEMBER)
    assert not decision.allowed
    assert decision.violated == ("delete",)
    assert decision.nearest == ("delete", 5, 0, 5, 51, 60)
    assert decision.states == (("general", 100, 95, 5, 51, 60), ("delete", 5, 0, 5, 51, 60))
    assert decision.retry_after_s == 51
    assert (decision.tier, decision.mode, decision.now_s) == ("pro", "memory", int(clock.wall()))


async def test_the_policy_with_the_fewest_units_left_is_the_nearest(limiter: Limiter) -> None:
    decision = await limiter.check(("general", "delete", "read"), MEMBER)
    assert decision.nearest is not None
    assert (decision.nearest.name, decision.nearest.remaining) == ("delete", 4)


async def test_of_two_that_refuse_the_longer_wait_counts(clock: ManualClock) -> None:
    limiter = _limiter(clock, Policy("minute", 1, 60), Policy("hour", 1, 3600))
    await limiter.check(("minute", "hour"), MEMBER)
    decision = await limiter.check(("minute", "hour"), MEMBER)
    assert decision.violated == ("minute", "hour")
    assert decision.nearest is not None
    assert decision.nearest.name == "hour"
    assert decision.retry_after_s == decision.nearest.reset_s == 3660


async def test_waiting_as_told_is_enough(limiter: Limiter, clock: ManualClock) -> None:
    for _ in range(5):
        await limiter.check(("delete",), MEMBER)
        clock.advance(3)
    decision = await limiter.check(("delete",), MEMBER)
    clock.advance(decision.retry_after_s)
    assert (await limiter.check(("delete",), MEMBER)).allowed


async def test_looking_spends_nothing(limiter: Limiter) -> None:
    for _ in range(10):
        assert (await limiter.check(("delete",), MEMBER, commit=False)).allowed


async def test_a_cost_counts_as_that_many(limiter: Limiter) -> None:
    assert (await limiter.check(("delete",), MEMBER, cost=4)).allowed
    refused = await limiter.check(("delete",), MEMBER, cost=2)
    assert not refused.allowed
    assert refused.nearest is not None
    assert refused.nearest.remaining == 1
    assert refused.retry_after_s == refused.nearest.reset_s == 61


async def test_a_cost_that_never_fits_still_has_a_wait_of_one_window(limiter: Limiter) -> None:
    assert (await limiter.check(("delete",), MEMBER, cost=6)).retry_after_s == 60


async def test_a_negative_cost_is_an_error(limiter: Limiter) -> None:
    with pytest.raises(ValueError, match="cost is -1"):
        await limiter.check(("delete",), MEMBER, cost=-1)


async def test_an_unknown_policy_is_an_error(limiter: Limiter) -> None:
    with pytest.raises(ConfigurationError, match="did you mean delete"):
        await limiter.check(("delte",), MEMBER)


async def test_a_policy_named_twice_is_charged_once(limiter: Limiter) -> None:
    decision = await limiter.check(("delete", "delete"), MEMBER)
    assert decision.states == (("delete", 5, 4, 1, 61, 60),)


async def test_of_policies_with_one_counter_the_strictest_decides(limiter: Limiter) -> None:
    decision = await limiter.check(("authentication-known", "authentication"), MEMBER)
    assert [state.limit for state in decision.states] == [5]


async def test_a_known_address_goes_on_where_an_unknown_one_was_refused(limiter: Limiter) -> None:
    for _ in range(5):
        await limiter.check(("authentication",), MEMBER)
    assert not (await limiter.check(("authentication",), MEMBER)).allowed
    decision = await limiter.check(("authentication-known",), MEMBER)
    assert decision.allowed
    assert decision.nearest is not None
    assert decision.nearest.used == 6


async def test_callers_do_not_share_quotas(limiter: Limiter) -> None:
    for _ in range(5):
        await limiter.check(("delete",), MEMBER)
    others = [MEMBER._replace(actor="8"), MEMBER._replace(organization="2"), MEMBER._replace(actor=None)]
    assert [(await limiter.check(("delete",), other)).allowed for other in others] == [True] * 3
    assert not (await limiter.check(("delete",), MEMBER._replace(address="5.6.7.8"))).allowed


async def test_a_whole_ipv6_network_is_one_anonymous_caller(limiter: Limiter) -> None:
    answers = [(await limiter.check(("public",), Caller(f"2001:db8::{n:x}"))).allowed for n in range(20)]
    assert sum(answers) == 15


async def test_anonymous_search_is_smaller_and_by_address(limiter: Limiter) -> None:
    answers = [(await limiter.check(("search",), Caller("1.2.3.4"))).allowed for _ in range(20)]
    assert sum(answers) == 18


async def test_a_better_tier_goes_on_with_what_was_used(limiter: Limiter) -> None:
    for _ in range(20):
        await limiter.check(("general",), MEMBER._replace(tier="free"))
    assert not (await limiter.check(("general",), MEMBER._replace(tier="free"))).allowed
    upgraded = await limiter.check(("general",), MEMBER)
    assert upgraded.nearest == ("general", 100, 79, 21, 61, 60)


async def test_a_shadow_policy_refuses_nobody_and_shows_nowhere(clock: ManualClock) -> None:
    limiter = _limiter(clock, Policy("real", 5, 60), Policy("tried", 1, 60, shadow=True))
    await limiter.check(("real", "tried"), MEMBER)
    decision = await limiter.check(("real", "tried"), MEMBER)
    assert decision.allowed
    assert decision.shadowed == ("tried",)
    assert [state.name for state in decision.states] == ["real"]
    assert limiter.snapshot().shadow_refusals == 1


async def test_without_policies_everything_passes_and_nothing_shows(limiter: Limiter) -> None:
    decision = await limiter.check((), MEMBER)
    assert (decision.allowed, decision.nearest, decision.states) == (True, None, ())


async def test_a_limiter_that_is_off_counts_nothing(clock: ManualClock) -> None:
    limiter = _limiter(clock, Policy("p", 1, 60), enabled=False)
    answers = [await limiter.check(("p",), MEMBER) for _ in range(3)]
    assert [(answer.allowed, answer.nearest) for answer in answers] == [(True, None)] * 3


async def test_a_refund_gives_a_unit_back(limiter: Limiter) -> None:
    for _ in range(5):
        await limiter.check(("delete",), MEMBER)
    await limiter.refund(("delete",), MEMBER)
    assert (await limiter.check(("delete",), MEMBER)).allowed


def test_probes_are_decided_without_an_await(limiter: Limiter) -> None:
    answers = [limiter.check_local(("health",), Caller("1.2.3.4")) for _ in range(1001)]
    assert [answer.allowed for answer in answers] == [True] * 1000 + [False]
    assert answers[0].mode == "memory"


async def test_the_limiter_remembers_a_bounded_number_of_callers(limiter: Limiter) -> None:
    for number in range(3000):
        await limiter.check(("public",), Caller(f"10.0.{number // 2 // 256}.{number // 2 % 256}"))
    assert limiter.snapshot().callers_kept == 1024


async def test_callers_who_come_once_push_out_nobody_who_comes_back(limiter: Limiter) -> None:
    for _ in range(2):
        await limiter.check(("public",), Caller("192.0.2.1"))
    for number in range(5000):
        await limiter.check(("public",), Caller(f"10.0.{number // 256}.{number % 256}"))
    assert limiter.snapshot().callers_kept == 1


async def test_the_snapshot_counts_checks_and_refusals(limiter: Limiter) -> None:
    for _ in range(7):
        await limiter.check(("delete",), MEMBER)
    snapshot = limiter.snapshot()
    assert (snapshot.mode, snapshot.checks, snapshot.refusals) == ("memory", 7, 2)
    assert repr(limiter) == "Limiter(mode='memory', policies=15, refusals=2)"
