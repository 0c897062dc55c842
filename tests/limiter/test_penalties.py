"""Repeat offenders: who is shut out, for how long, what it costs, and whom it does not touch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from b1.clock import ManualClock
from b1.errors import ConfigurationError
from b1.limiter import Caller, CallerLists, Decision, Limiter, LimiterOptions, Policy, PolicyTable
from b1.limiter.deny import DenyCache
from b1.limiter.evidence import Evidence
from b1.store.base import Charge, Spent, StoreSnapshot
from b1.store.memory import MemoryStore
from b1.store.terms import Penalty, PenaltyRule, Terms
from b1.testing import StoreHarness

TABLE = PolicyTable(
    (Policy("public", 5, 60, scope="address"), Policy("read", 5, 60), Policy("other", 100, 60, scope="address"))
)
RULE = PenaltyRule(threshold=4, blocks_ms=(60_000, 300_000))
STRANGER = Caller("203.0.113.9")
ANN = Caller("203.0.113.9", "ann", "1")


class Watched(MemoryStore):
    """A memory store that only answers with an await, and counts how often it is asked."""

    asked = 0

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        self.asked += 1
        return await super().spend(charges, commit=commit, terms=terms)

    def snapshot(self) -> StoreSnapshot:
        return super().snapshot()


class World:
    def __init__(self, *, lists: CallerLists | None = None, rule: PenaltyRule | None = RULE) -> None:
        self.clock = StoreHarness.clock_at_start()
        self.store = Watched(2**20, self.clock)
        options = LimiterOptions(penalties=rule, callers=lists or CallerLists())
        self.limiter = Limiter(self.store, TABLE, options=options)

    async def ask(
        self, caller: Caller = STRANGER, name: str = "public", times: int = 1, apart_s: float = 0
    ) -> Decision:
        for _ in range(times):
            self.clock.advance(apart_s)
            decision = await self.limiter.check((name,), caller)
        return decision

    async def offend(self, caller: Caller = STRANGER, name: str = "public") -> Decision:
        """Use the quota up and go on until the block begins."""
        await self.ask(caller, name, times=5)
        return await self.ask(caller, name, times=4, apart_s=1)


class TestBlocks:
    async def test_whoever_goes_on_asking_is_shut_out_and_told_for_how_long(self) -> None:
        world = World()
        decision = await world.offend()
        assert (decision.allowed, decision.is_penalty, decision.retry_after_s) == (False, True, 60)
        assert decision.nearest == ("public", 5, 0, 5, 60, 60)
        assert world.limiter.snapshot().penalties == 1

    async def test_a_burst_that_overshoots_once_is_no_offence(self) -> None:
        decision = await World().ask(times=100)
        assert (decision.allowed, decision.is_penalty, decision.violated) == (False, False, ("public",))

    async def test_a_block_is_for_every_policy(self) -> None:
        world = World()
        await world.offend()
        assert (await world.ask(name="other")).is_penalty

    async def test_whoever_waits_as_told_is_let_in(self) -> None:
        world = World()
        decision = await world.offend()
        world.clock.advance(decision.retry_after_s)
        assert (await world.ask()).allowed

    async def test_whoever_knocks_on_is_shut_out_for_longer_and_nothing_passes_in_between(self) -> None:
        world = World()
        await world.offend()
        answers = [await world.ask(apart_s=1) for _ in range(70)]
        assert not any(answer.allowed for answer in answers)
        assert answers[58].retry_after_s == 1
        assert answers[59].retry_after_s == 300

    async def test_a_few_knocks_are_forgiven(self) -> None:
        world = World()
        await world.offend()
        await world.ask(times=3, apart_s=10)
        world.clock.advance(30)
        assert (await world.ask()).allowed

    async def test_without_a_rule_nobody_is_shut_out(self) -> None:
        world = World(rule=None)
        assert not (await world.ask(times=60, apart_s=0.9)).is_penalty


class TestWhoIsSpared:
    async def test_a_valid_token_is_exempt_from_its_addresss_penalty(self) -> None:
        world = World()
        await world.offend()
        assert (await world.ask(ANN, "read")).allowed
        assert (await world.ask(ANN, "other")).allowed

    async def test_an_actors_penalty_follows_it_and_touches_nobody_else_at_its_address(self) -> None:
        world = World()
        await world.offend(ANN, "read")
        assert (await world.ask(ANN._replace(address="203.0.113.77"), "other")).is_penalty
        assert (await world.ask(name="other")).allowed
        assert (await world.ask(ANN._replace(actor="bob"), "read")).allowed

    async def test_a_whole_ipv6_network_is_shut_out_and_the_next_one_is_not(self) -> None:
        world = World()
        await world.offend(Caller("2001:db8:0:1::1"))
        assert (await world.ask(Caller("2001:db8:0:1:ffff::2"))).is_penalty
        assert (await world.ask(Caller("2001:db8:0:2::1"))).allowed

    async def test_what_a_handler_asks_on_behalf_of_an_account_is_held_against_the_address(self) -> None:
        world = World()
        account = Caller("203.0.113.9", "account:victim")
        for _ in range(9):
            world.clock.advance(1)
            await world.limiter.check(("read",), account, blame="address")
        assert (await world.ask()).is_penalty
        assert (await world.ask(Caller("198.51.100.1", "account:victim"), "other")).allowed

    async def test_nobody_is_blamed_when_that_is_asked_for(self) -> None:
        world = World()
        for _ in range(60):
            world.clock.advance(0.9)
            decision = await world.limiter.check(("public",), STRANGER, blame="nobody")
        assert not decision.is_penalty


class TestTheTableInFront:
    async def test_who_is_shut_out_costs_no_question_but_one_every_five_seconds(self) -> None:
        world = World()
        await world.offend()
        before = world.store.asked
        await world.ask(times=300, apart_s=0.1)
        assert world.store.asked - before <= 7
        assert world.limiter.snapshot().denied >= 293

    async def test_a_refusal_from_it_tells_what_is_left_of_the_wait(self) -> None:
        world = World()
        first = await world.offend()
        later = await world.ask(apart_s=2)
        assert (first.retry_after_s, later.retry_after_s) == (60, 58)
        assert later.now_s == first.now_s + 2
        assert later.nearest is not None
        assert later.nearest.reset_s == 58

    async def test_a_pardon_takes_effect_at_once(self) -> None:
        world = World()
        await world.offend()
        await world.limiter.pardon(STRANGER)
        assert (await world.ask(name="other")).allowed

    async def test_a_pardon_by_another_process_is_heard_within_five_seconds(self) -> None:
        world = World()
        await world.offend()
        other = Limiter(world.store, TABLE)
        await other.pardon(STRANGER)
        assert (await world.ask(name="other")).is_penalty
        assert (await world.ask(name="other", apart_s=5)).allowed

    async def test_offences_that_the_limiter_did_not_see_count_too(self) -> None:
        world = World()
        await world.limiter.penalise(STRANGER, strikes=4)
        assert (await world.ask()).is_penalty

    async def test_a_fresh_start_forgets_counters_and_offences(self) -> None:
        world = World()
        await world.offend()
        assert await world.limiter.reset(("public",), STRANGER) == {"public": 5}
        assert (await world.ask(times=5)).allowed

    def test_it_is_bounded_and_the_oldest_is_asked_about_again(self) -> None:
        denied, decision = DenyCache(RULE, limit=3), Decision(False, (), None, (), 60, "free", "memory", 0)
        for number in range(5):
            assert denied.note(str(number), Penalty(60_000, 0, 1), decision, 0)
        assert [denied.find(str(number), 1) is not None for number in range(5)] == [False, False, True, True, True]

    def test_only_one_request_asks_whether_a_block_goes_on(self) -> None:
        denied, decision = DenyCache(RULE, confirm_ms=5000), Decision(False, (), None, (), 60, "free", "memory", 0)
        denied.note("a", Penalty(60_000, 0, 1), decision, 0)
        assert [denied.find("a", 5000) is None for _ in range(4)] == [True, False, False, False]


FIELDS = {b"user-agent": b"curl/8", b"accept": b"*/*"}


class TestEvidence:
    def test_a_likeness_to_one_who_is_shut_out_doubles_an_offence_in_the_same_neighbourhood(self) -> None:
        evidence = Evidence()
        assert evidence.strikes("203.0.113.1", FIELDS, 0) == 1
        evidence.note("203.0.113.1", FIELDS, 1000)
        assert evidence.strikes("203.0.113.200", FIELDS, 0) == 2
        assert evidence.strikes("203.0.114.1", FIELDS, 0) == 1
        assert evidence.strikes("203.0.113.200", {b"user-agent": b"Firefox"}, 0) == 1
        assert evidence.strikes("203.0.113.200", FIELDS, 1000) == 1

    def test_it_is_bounded(self) -> None:
        evidence = Evidence()
        for number in range(2000):
            evidence.note(f"10.{number // 250}.{number % 250}.1", FIELDS, 1)
        assert len(evidence) == 512

    async def test_a_likeness_alone_refuses_nobody(self) -> None:
        world = World()
        for caller in (STRANGER, Caller("203.0.113.10")):
            answers = [await world.limiter.check(("public",), caller, fields=FIELDS) for _ in range(5)]
            assert all(answer.allowed for answer in answers)
            for _ in range(4 if caller is STRANGER else 2):
                world.clock.advance(1)
                last = await world.limiter.check(("public",), caller, fields=FIELDS)
            assert last.is_penalty  # the second one after half as many offences


class TestLists:
    async def test_whoever_is_allowed_is_never_counted(self) -> None:
        world = World(lists=CallerLists(allow=("203.0.113.0/24", "actor:ann")))
        decision = await world.ask(times=50, apart_s=1)
        assert (decision.allowed, decision.nearest) == (True, None)
        assert (await world.ask(ANN._replace(address="198.51.100.1"), "read", times=50)).allowed

    async def test_whoever_is_denied_is_never_let_in(self) -> None:
        world = World(lists=CallerLists(deny=("2001:db8::/32", "203.0.113.9", "actor:bob")))
        for caller in (STRANGER, Caller("2001:db8:7::1"), Caller("198.51.100.1", "bob")):
            decision = await world.ask(caller)
            assert (decision.allowed, decision.is_denied) == (False, True)
            assert world.limiter.refusal(caller) is not None
        assert (await world.ask(Caller("203.0.113.10"))).allowed
        assert world.store.asked == 1

    async def test_an_allowed_actor_passes_from_a_denied_network(self) -> None:
        lists = CallerLists(allow=("actor:ann",), deny=("203.0.113.0/24",))
        assert (await World(lists=lists).ask(ANN, "read")).allowed
        assert (await World(lists=lists).ask()).is_denied

    async def test_an_actors_own_entry_comes_before_that_of_its_network(self) -> None:
        lists = CallerLists(allow=("203.0.113.0/24",), deny=("actor:ann",))
        assert (await World(lists=lists).ask(ANN, "read")).is_denied

    @pytest.mark.parametrize("entry", ["nonsense", "300.1.1.1", "10.0.0.0/40", "", "2001:db8::/129"])
    def test_an_entry_that_is_neither_stops_the_start(self, entry: str) -> None:
        with pytest.raises(ConfigurationError, match="is no network, address or actor"):
            CallerLists(deny=(entry,))

    def test_an_address_that_cannot_be_read_is_on_no_list(self) -> None:
        assert CallerLists(allow=("0.0.0.0/0",), deny=("::/0",)).verdict("unknown", None) is None


def test_the_clock_of_a_memory_store_is_the_limiters() -> None:
    clock = ManualClock(monotonic=5.0)
    limiter = Limiter(MemoryStore(2**20, clock), TABLE, options=LimiterOptions(penalties=RULE))
    for _ in range(9):
        clock.advance(1)
        decision = limiter.check_now(("public",), STRANGER)
    assert decision is not None
    assert decision.is_penalty
    clock.advance(60)
    again = limiter.check_now(("public",), STRANGER)
    assert again is not None
    assert again.allowed
