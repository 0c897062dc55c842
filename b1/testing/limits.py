"""The contract of limits: `spend`, `refund`, and what `enter` does of them."""

from __future__ import annotations

import asyncio

from b1.store.base import Charge
from b1.testing.harness import MINUTE_MS, StoreHarness, check


@check
async def a_new_key_has_its_whole_quota(h: StoreHarness) -> None:
    spent = await h.store.spend([Charge("limit:a:1", 5, MINUTE_MS)], commit=False)
    assert spent.allowed
    assert spent.balances == ((True, 0, 5, 0, 0, 0),)
    assert spent.now_ms == int(h.clock.wall() * 1000)


@check
async def exactly_the_quota_passes(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 5, MINUTE_MS)
    answers = [(await h.store.spend([charge])).allowed for _ in range(8)]
    assert answers == [True] * 5 + [False] * 3
    assert await h.used("limit:a:1") == 5


@check
async def exactly_the_quota_passes_when_many_ask_at_once(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 5, MINUTE_MS)
    answers = await asyncio.gather(*(h.store.spend([charge]) for _ in range(100)))
    assert sum(answer.allowed for answer in answers) == 5


@check
async def a_balance_says_when_units_come_back(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 2, MINUTE_MS)
    await h.store.spend([charge])
    h.clock.advance(10)
    last = await h.store.spend([charge])
    # Counters are one second wide here, and the oldest is counted whole: a unit is gone 61 s after its second began.
    assert last.balances == ((True, 2, 0, 0, 51_000, 61_000),)
    h.clock.advance(1)
    refused = await h.store.spend([charge])
    assert refused.balances == ((False, 2, 0, 50_000, 50_000, 60_000),)
    h.clock.advance(49.999)
    assert not (await h.store.spend([charge])).allowed
    h.clock.advance(0.001)
    assert (await h.store.spend([charge])).allowed


@check
async def a_window_empties(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 2, MINUTE_MS, 2)
    assert (await h.store.spend([charge])).allowed
    h.clock.advance(61)
    assert (await h.store.spend([charge])).balances == ((True, 2, 0, 0, 61_000, 61_000),)


@check
async def one_refusal_spends_nothing_anywhere(h: StoreHarness) -> None:
    wide, narrow = Charge("limit:a:1", 100, MINUTE_MS), Charge("limit:b:1", 1, MINUTE_MS)
    first = await h.store.spend([wide, narrow])
    second = await h.store.spend([wide, narrow])
    assert (first.allowed, second.allowed) == (True, False)
    assert [balance.allowed for balance in second.balances] == [True, False]
    assert await h.used("limit:a:1") == 1


@check
async def looking_spends_nothing(h: StoreHarness) -> None:
    for _ in range(3):
        assert (await h.store.spend([Charge("limit:a:1", 1, MINUTE_MS)], commit=False)).allowed
    assert await h.used("limit:a:1") == 0


@check
async def a_cost_of_zero_passes_a_spent_quota_only_when_it_is_not_exceeded(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 3, MINUTE_MS, 3)])
    assert (await h.store.spend([Charge("limit:a:1", 3, MINUTE_MS, 0)])).allowed
    assert not (await h.store.spend([Charge("limit:a:1", 2, MINUTE_MS, 0)])).allowed


@check
async def a_cost_above_the_quota_never_fits(h: StoreHarness) -> None:
    spent = await h.store.spend([Charge("limit:a:1", 5, MINUTE_MS, 6)])
    assert spent.balances == ((False, 0, 5, -1, 0, 0),)


@check
async def a_refused_cost_leaves_room_for_a_smaller_one(h: StoreHarness) -> None:
    units = [1000, 1500, 500, 400, 100, 1]
    spent = [(await h.store.spend([Charge("limit:a:1", 2000, MINUTE_MS, cost)])).balances[0] for cost in units]
    assert [balance.allowed for balance in spent] == [True, False, True, True, True, False]
    assert [balance.remaining for balance in spent] == [1000, 1000, 500, 100, 0, 0]


@check
async def large_numbers_stay_exact(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 2**31 - 1, 2**31 - 1, 2**30)
    await h.store.spend([charge])
    spent = await h.store.spend([Charge("limit:a:1", 2**31 - 1, 2**31 - 1, 2**30 - 1)])
    assert spent.allowed
    assert spent.balances[0].used == 2**31 - 1
    assert not (await h.store.spend([Charge("limit:a:1", 2**31 - 1, 2**31 - 1)])).allowed


@check
async def a_lowered_quota_counts_what_was_spent(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 10, MINUTE_MS, 6)])
    h.clock.advance(30)
    await h.store.spend([Charge("limit:a:1", 10, MINUTE_MS, 4)])
    spent = await h.store.spend([Charge("limit:a:1", 4, MINUTE_MS)])
    # Six units must go before one fits again, and those of the first moment are six; the seventh comes 30 s later.
    assert spent.balances == ((False, 10, 0, 61_000, 61_000, 61_000),)


@check
async def another_window_length_starts_empty(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 1, MINUTE_MS)])
    assert (await h.store.spend([Charge("limit:a:1", 1, 2 * MINUTE_MS)])).allowed


@check
async def a_shadow_charge_refuses_nobody(h: StoreHarness) -> None:
    real, shadow = Charge("limit:a:1", 5, MINUTE_MS), Charge("limit:b:1", 1, MINUTE_MS, shadow=True)
    answers = [await h.store.spend([real, shadow]) for _ in range(3)]
    assert [answer.allowed for answer in answers] == [True, True, True]
    assert [answer.balances[1].allowed for answer in answers] == [True, False, False]
    assert await h.used("limit:a:1") == 3
    assert await h.used("limit:b:1") == 1


@check
async def a_clock_that_goes_back_brings_nothing_back(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 3, MINUTE_MS)
    for _ in range(3):
        await h.store.spend([charge])
    h.clock.advance(-20)
    refused = await h.store.spend([charge])
    assert not refused.allowed
    assert refused.balances[0].retry_after_ms == 81_000
    h.clock.advance(81)
    assert (await h.store.spend([charge])).allowed


@check
async def a_clock_set_back_by_more_than_a_window_starts_empty(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 1, MINUTE_MS)
    await h.store.spend([charge])
    h.clock.advance(-3600)
    assert (await h.store.spend([charge])).allowed


@check
async def a_refund_gives_back_the_newest_units(h: StoreHarness) -> None:
    one, two = Charge("limit:a:1", 5, MINUTE_MS), Charge("limit:a:1", 5, MINUTE_MS, 2)
    await h.store.spend([one])
    h.clock.advance(10)
    await h.store.spend([two])
    await h.store.refund([two])
    spent = await h.store.spend([one], commit=False)
    assert spent.balances == ((True, 1, 4, 0, 0, 51_000),)


@check
async def a_refund_never_goes_below_empty(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 5, MINUTE_MS)])
    await h.store.refund([Charge("limit:a:1", 5, MINUTE_MS, 100), Charge("limit:b:1", 5, MINUTE_MS)])
    assert await h.used("limit:a:1") == 0
    answers = [(await h.store.spend([Charge("limit:a:1", 5, MINUTE_MS)])).allowed for _ in range(6)]
    assert answers == [True] * 5 + [False]
