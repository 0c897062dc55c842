"""The contract of decisions about offenders: refused while shut out, struck by refusals, in the one round trip."""

from __future__ import annotations

from b1.store.base import Charge, PenaltyRule, Spent
from b1.store.terms import Offender, Terms
from b1.testing.harness import MINUTE_MS, StoreHarness, check

_RULE = PenaltyRule(threshold=3, decay_ms=60_000, blocks_ms=(120_000, 300_000), forget_ms=3_600_000, apart_ms=1000)
_CHARGE = Charge("limit:a:1", 1, MINUTE_MS)


async def _ask(
    h: StoreHarness, *, knocks: int = 0, strikes: int = 1, commit: bool = True, charge: Charge = _CHARGE
) -> Spent:
    offender = Offender("penalty:1:a", _RULE, strikes, knocks)
    return await h.store.spend([charge], commit=commit, terms=Terms(offender))


async def _offend(h: StoreHarness, times: int) -> Spent:
    for _ in range(times):
        h.clock.advance(1)
        spent = await _ask(h)
    return spent


@check
async def what_is_allowed_is_no_offence(h: StoreHarness) -> None:
    assert (await _ask(h)).penalty == (0, 0, 0)
    assert (await h.store.spend([_CHARGE])).penalty is None


@check
async def refusals_add_up_to_a_block(h: StoreHarness) -> None:
    await _ask(h)
    assert [(await _offend(h, 1)).penalty for _ in range(3)] == [(0, 1, 0), (0, 2, 0), (120_000, 0, 1)]


@check
async def refusals_at_once_count_once(h: StoreHarness) -> None:
    await _ask(h)
    assert [(await _ask(h)).penalty for _ in range(20)][-1] == (0, 1, 0)
    h.clock.advance(1)
    assert (await _ask(h)).penalty == (0, 2, 0)


@check
async def who_is_shut_out_is_refused_and_spends_nothing(h: StoreHarness) -> None:
    await _ask(h)
    await _offend(h, 3)
    other = Charge("limit:b:1", 5, MINUTE_MS)
    spent = await _ask(h, charge=other)
    assert (spent.allowed, spent.balances[0].allowed, spent.penalty) == (False, True, (120_000, 0, 1))
    assert await h.used("limit:b:1") == 0
    assert not (await _ask(h, charge=other, commit=False)).allowed
    h.clock.advance(120)
    assert (await _ask(h, charge=other)).allowed


@check
async def who_waits_as_told_is_let_in_and_who_knocks_is_not(h: StoreHarness) -> None:
    await _ask(h)
    await _offend(h, 3)
    h.clock.advance(120)
    spent = await _ask(h, knocks=3)
    assert (spent.allowed, spent.penalty) == (False, (300_000, 0, 2))
    h.clock.advance(300)
    assert (await _ask(h, knocks=2)).allowed


@check
async def knocks_while_shut_out_change_nothing(h: StoreHarness) -> None:
    await _ask(h)
    await _offend(h, 3)
    assert (await _ask(h, knocks=100)).penalty == (120_000, 0, 1)


@check
async def looking_is_no_offence(h: StoreHarness) -> None:
    await _ask(h)
    for _ in range(5):
        h.clock.advance(1)
        assert not (await _ask(h, commit=False, knocks=9)).allowed
    assert (await _ask(h, strikes=0)).penalty == (0, 0, 0)


@check
async def a_refusal_of_a_shadow_charge_is_no_offence(h: StoreHarness) -> None:
    shadow = Charge("limit:a:1", 0, MINUTE_MS, shadow=True)
    assert [(await _ask(h, charge=shadow)).penalty for _ in range(3)] == [(0, 0, 0)] * 3


@check
async def a_refusal_can_count_more(h: StoreHarness) -> None:
    await _ask(h)
    assert (await _ask(h, strikes=3)).penalty == (120_000, 0, 1)


@check
async def a_pardon_lets_an_offender_in(h: StoreHarness) -> None:
    await _ask(h, charge=Charge("limit:a:1", 9, MINUTE_MS))
    await _ask(h, strikes=3, charge=Charge("limit:a:1", 0, MINUTE_MS))
    await h.store.penalise("penalty:1:a", _RULE, strikes=0, pardon=True)
    assert (await _ask(h, charge=Charge("limit:a:1", 9, MINUTE_MS))).allowed


@check
async def a_settlement_asks_nobody_and_strikes_nobody(h: StoreHarness) -> None:
    await _ask(h, strikes=3)
    await _ask(h, strikes=3)
    terms = Terms(Offender("penalty:1:a", _RULE), is_forced=True)
    assert (await h.store.spend([Charge("limit:a:1", 1, MINUTE_MS, 5)], terms=terms)).allowed
    assert await h.used("limit:a:1") == 6
