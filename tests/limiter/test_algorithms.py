"""Bursts, concurrency, costs, shadow, and another table in force: what the limiter makes of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from b1.clock import ManualClock
from b1.errors import ConfigurationError
from b1.limiter import Caller, Decision, Limiter, Policy, PolicyTable, decision_headers
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness

ANN = Caller("203.0.113.9", "ann", "1", "MEMBER", "pro")


def units(request: Any) -> int:
    return int(request["units"])


class World:
    def __init__(self, *policies: Policy, roles: Mapping[str, float] | None = None) -> None:
        self.clock: ManualClock = StoreHarness.clock_at_start()
        self.limiter = Limiter(MemoryStore(2**20, self.clock), PolicyTable(policies, roles=roles or {}))

    async def ask(self, *names: str, caller: Caller = ANN, **more: Any) -> Decision:
        return await self.limiter.check(names, caller, **more)

    async def passed(self, *names: str, times: int = 50, caller: Caller = ANN) -> int:
        return sum([(await self.ask(*names, caller=caller)).allowed for _ in range(times)])


class TestBursts:
    async def test_a_burst_passes_at_once_and_the_rest_evenly(self) -> None:
        world = World(Policy("p", 60, 60, algorithm="gcra", burst=10))
        assert await world.passed("p") == 10
        for _ in range(5):
            world.clock.advance(1)
            assert await world.passed("p") == 1

    async def test_the_burst_grows_with_the_quota_of_a_tier_and_a_role(self) -> None:
        policy = Policy("p", 60, 60, algorithm="gcra", burst=10, tiers={"free": 30}, role_scaled=True)
        world = World(policy, roles={"OWNER": 2.0})
        assert await world.passed("p", caller=ANN._replace(tier="free")) == 5
        assert await world.passed("p", caller=ANN._replace(actor="bob", role="OWNER")) == 20

    async def test_without_a_burst_the_quota_is_it(self) -> None:
        world = World(Policy("p", 6, 60, algorithm="gcra"))
        assert await world.passed("p") == 6
        world.clock.advance(10)
        assert await world.passed("p") == 1

    async def test_it_is_told_as_the_bucket_that_it_is(self) -> None:
        world = World(Policy("p", 60, 60, algorithm="gcra", burst=10))
        decision = await world.ask("p")
        assert decision.nearest == ("p", 10, 9, 1, 1, 10)
        assert dict(decision_headers(decision))[b"ratelimit-policy"] == b'"p";q=10;w=10'

    async def test_it_decides_with_windows_for_all_or_nothing(self) -> None:
        world = World(Policy("window", 3, 60), Policy("bucket", 60, 60, algorithm="gcra", burst=10))
        assert await world.passed("window", "bucket") == 3
        assert (await world.ask("bucket", commit=False)).states[0].used == 3

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"burst": 0}, "burst is 0"),
            ({"burst": 10, "algorithm": "sliding-window"}, "burst is for gcra"),
            ({"quota": 1, "window_s": 86400, "burst": 30}, "longer than 24 days"),
            ({"quota": 1, "window_s": 2_000_000, "burst": 2}, "longer than 24 days"),
        ],
    )
    def test_an_impossible_bucket_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            Policy(**{"name": "p", "quota": 5, "window_s": 60, "algorithm": "gcra", **change})

    async def test_limits_of_every_size_count(self) -> None:
        # redis-cell #50: very large numbers must not stop limiting.
        for number, policy in enumerate(
            (
                Policy("a", 2**31 - 1, 1, algorithm="gcra", burst=3),
                Policy("b", 1, 2_147_483, algorithm="gcra"),
                Policy("c", 10**6, 86_400, algorithm="gcra", burst=3),
            )
        ):
            world = World(policy)
            assert await world.passed(policy.name) == (1 if number == 1 else 3)


class TestConcurrency:
    async def test_so_many_run_at_a_time_and_no_more(self) -> None:
        world = World(Policy("p", 2, 60, algorithm="concurrency"))
        held = [world.limiter.new_holder() for _ in range(3)]
        answers = [await world.ask("p", holder=holder) for holder in held]
        assert [answer.allowed for answer in answers] == [True, True, False]
        assert (answers[2].retry_after_s, answers[2].violated) == (1, ("p",))
        await world.limiter.release(("p",), ANN, held[0])
        assert (await world.ask("p", holder=held[2])).allowed

    async def test_it_is_told_without_a_window(self) -> None:
        world = World(Policy("p", 2, 60, algorithm="concurrency"))
        headers = dict(decision_headers(await world.ask("p", holder="h")))
        assert headers[b"ratelimit-policy"] == b'"p";q=2;qu="concurrent-requests"'
        assert (headers[b"x-ratelimit-window"], headers[b"x-ratelimit-remaining"]) == (b"0", b"1")

    async def test_what_nobody_gives_back_comes_back_by_itself(self) -> None:
        world = World(Policy("p", 1, 60, algorithm="concurrency"))
        await world.ask("p", holder="lost")
        world.clock.advance(60)
        assert (await world.ask("p", holder="h")).allowed

    async def test_only_such_policies_need_a_holder(self) -> None:
        world = World(Policy("p", 1, 60, algorithm="concurrency"), Policy("q", 1, 60))
        assert (world.limiter.holds(("q", "p")), world.limiter.holds(("q",))) == (True, False)

    def test_its_cost_is_fixed(self) -> None:
        with pytest.raises(ConfigurationError, match="held at a time"):
            Policy("p", 1, 60, algorithm="concurrency", cost=units)


class TestCosts:
    async def test_a_policy_can_charge_more_than_one_unit(self) -> None:
        world = World(Policy("p", 10, 60, cost=3), Policy("q", 10, 60))
        decision = await world.ask("p", "q")
        assert [state.used for state in decision.states] == [3, 1]

    async def test_a_cost_can_be_read_from_the_request(self) -> None:
        world = World(Policy("p", 10, 60, cost=units), Policy("q", 10, 60))
        assert (await world.ask("p", "q", request={"units": 7})).allowed
        refused = await world.ask("p", "q", request={"units": 4})
        assert (refused.violated, [state.used for state in refused.states]) == (("p",), [7, 1])
        assert (await world.ask("p", "q", request={"units": 3})).allowed

    @pytest.mark.parametrize("wrong", [-1, 1.5, None, True, "3"])
    async def test_a_cost_that_is_no_number_of_units_is_an_error(self, wrong: Any) -> None:
        world = World(Policy("p", 10, 60, cost=lambda _: wrong))
        with pytest.raises(ValueError, match="the cost of policy p"):
            await world.ask("p")

    async def test_work_that_was_cheaper_gives_the_rest_back(self) -> None:
        world = World(Policy("p", 10, 60), Policy("b", 600, 60, algorithm="gcra", burst=10))
        await world.ask("p", "b", cost=8)
        await world.limiter.settle(("p", "b"), ANN, taken=8, actual=3)
        assert [state.used for state in (await world.ask("p", "b", commit=False)).states] == [3, 3]

    async def test_work_that_was_dearer_takes_the_rest_even_if_it_does_not_fit(self) -> None:
        world = World(Policy("p", 10, 60))
        await world.ask("p", cost=8)
        await world.limiter.settle(("p",), ANN, taken=8, actual=25)
        refused = await world.ask("p")
        assert (refused.allowed, refused.states[0].used) == (False, 25)
        world.clock.advance(61)
        assert (await world.ask("p")).allowed

    async def test_work_that_cost_what_was_taken_asks_nobody(self) -> None:
        world = World(Policy("p", 10, 60))
        await world.ask("p", cost=8)
        await world.limiter.settle(("p",), ANN, taken=8, actual=8)
        assert (await world.ask("p", commit=False)).states[0].used == 8


class TestAnotherTable:
    async def test_counters_stay_where_name_and_window_do(self) -> None:
        world = World(Policy("p", 10, 60), Policy("q", 10, 60))
        for _ in range(4):
            await world.ask("p", "q")
        world.limiter.replace(PolicyTable([Policy("p", 6, 60), Policy("q", 10, 3600), Policy("new", 1, 60)]))
        decision = await world.ask("p", "q", "new")
        assert [(state.name, state.limit, state.used) for state in decision.states] == [
            ("p", 6, 5),
            ("q", 10, 1),
            ("new", 1, 1),
        ]

    async def test_a_policy_that_is_gone_is_an_error(self) -> None:
        world = World(Policy("p", 10, 60))
        world.limiter.replace(PolicyTable([Policy("q", 1, 60)]))
        with pytest.raises(ConfigurationError, match="no policy is called 'p'"):
            await world.ask("p")

    async def test_who_is_shut_out_stays_out(self) -> None:
        world = World(Policy("p", 10, 60))
        await world.limiter.penalise(ANN, strikes=10)
        world.limiter.replace(PolicyTable([Policy("p", 100, 60)]))
        assert (await world.ask("p")).is_penalty


class TestShadow:
    @pytest.mark.parametrize("algorithm", ["sliding-window", "gcra", "concurrency"])
    async def test_a_policy_on_trial_is_counted_and_refuses_nobody(self, algorithm: Any) -> None:
        world = World(Policy("real", 50, 60), Policy("trial", 2, 60, algorithm=algorithm, shadow=True))
        for number in range(5):
            decision = await world.ask("real", "trial", holder=str(number))
            assert decision.allowed
        assert decision.shadowed == ("trial",)
        assert [state.name for state in decision.states] == ["real"]
        snapshot = world.limiter.snapshot()
        assert (snapshot.shadowed_by, snapshot.refused_by, snapshot.refusals) == ({"trial": 3}, {}, 0)


class TestKeys:
    async def test_a_text_of_the_callers_own_is_counted_under_the_policy_that_it_names(self) -> None:
        world = World(Policy("p", 2, 60), Policy("q", 100, 60))
        room = ANN._replace(keys=(("p", "room-1"),))
        assert await world.passed("p", "q", caller=room) == 2
        assert await world.passed("p", caller=room._replace(actor="bob")) == 0
        assert await world.passed("p", caller=ANN) == 2


async def test_refusals_are_counted_by_policy() -> None:
    world = World(Policy("p", 1, 60), Policy("q", 100, 60))
    await world.passed("p", "q", times=4)
    assert world.limiter.snapshot().refused_by == {"p": 3}


@pytest.mark.parametrize("name", ["p", "b"])
async def test_a_hundred_at_once_get_exactly_the_quota(name: str) -> None:
    import asyncio

    world = World(Policy("p", 5, 60), Policy("b", 5, 60, algorithm="gcra"))
    answers = await asyncio.gather(*(world.ask(name) for _ in range(100)))
    assert sum(answer.allowed for answer in answers) == 5
