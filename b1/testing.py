"""What tests of b1 and of its users share: a clock that stands still, and the contract that every store keeps.

`store_contract` needs no test framework: each check is an async function of a `StoreHarness` and fails by
`AssertionError`. With pytest: ``@pytest.mark.parametrize("check", store_contract, ids=lambda check: check.__name__)``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from b1.clock import ManualClock
from b1.store.base import GRACE_MS, Charge, ClaimState, Store

__all__ = ["ManualClock", "StoreCheck", "StoreHarness", "store_contract"]

_MINUTE_MS = 60_000
_START_S = 1_750_032_000.0  # midnight UTC


@dataclass(frozen=True, slots=True)
class StoreHarness:
    """A store that starts empty, and the clock that it reads.

    Both of the clock's times must be equal, since a store may count on either: use `StoreHarness.clock_at_start`.
    """

    store: Store
    clock: ManualClock

    @staticmethod
    def clock_at_start() -> ManualClock:
        """Return a clock whose monotonic and wall times agree, at the start of a counter of every usual window."""
        return ManualClock(monotonic=_START_S, wall=_START_S)

    async def used(self, key: str, quota: int = 100, window_ms: int = _MINUTE_MS) -> int:
        """Return what is counted under `key`, spending nothing."""
        spent = await self.store.spend([Charge(key, quota, window_ms)], commit=False)
        return spent.balances[0].used


StoreCheck = Callable[[StoreHarness], Awaitable[None]]
_checks: list[StoreCheck] = []


def _check(function: StoreCheck) -> StoreCheck:
    _checks.append(function)
    return function


@_check
async def a_new_key_has_its_whole_quota(h: StoreHarness) -> None:
    spent = await h.store.spend([Charge("limit:a:1", 5, _MINUTE_MS)], commit=False)
    assert spent.allowed
    assert spent.balances == ((True, 0, 5, 0, 0, 0),)
    assert spent.now_ms == int(h.clock.wall() * 1000)


@_check
async def exactly_the_quota_passes(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 5, _MINUTE_MS)
    answers = [(await h.store.spend([charge])).allowed for _ in range(8)]
    assert answers == [True] * 5 + [False] * 3
    assert await h.used("limit:a:1") == 5


@_check
async def exactly_the_quota_passes_when_many_ask_at_once(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 5, _MINUTE_MS)
    answers = await asyncio.gather(*(h.store.spend([charge]) for _ in range(100)))
    assert sum(answer.allowed for answer in answers) == 5


@_check
async def a_balance_says_when_units_come_back(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 2, _MINUTE_MS)
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


@_check
async def a_window_empties(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 2, _MINUTE_MS, 2)
    assert (await h.store.spend([charge])).allowed
    h.clock.advance(61)
    assert (await h.store.spend([charge])).balances == ((True, 2, 0, 0, 61_000, 61_000),)


@_check
async def one_refusal_spends_nothing_anywhere(h: StoreHarness) -> None:
    wide, narrow = Charge("limit:a:1", 100, _MINUTE_MS), Charge("limit:b:1", 1, _MINUTE_MS)
    first = await h.store.spend([wide, narrow])
    second = await h.store.spend([wide, narrow])
    assert (first.allowed, second.allowed) == (True, False)
    assert [balance.allowed for balance in second.balances] == [True, False]
    assert await h.used("limit:a:1") == 1


@_check
async def looking_spends_nothing(h: StoreHarness) -> None:
    for _ in range(3):
        assert (await h.store.spend([Charge("limit:a:1", 1, _MINUTE_MS)], commit=False)).allowed
    assert await h.used("limit:a:1") == 0


@_check
async def a_cost_of_zero_passes_a_spent_quota_only_when_it_is_not_exceeded(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 3, _MINUTE_MS, 3)])
    assert (await h.store.spend([Charge("limit:a:1", 3, _MINUTE_MS, 0)])).allowed
    assert not (await h.store.spend([Charge("limit:a:1", 2, _MINUTE_MS, 0)])).allowed


@_check
async def a_cost_above_the_quota_never_fits(h: StoreHarness) -> None:
    spent = await h.store.spend([Charge("limit:a:1", 5, _MINUTE_MS, 6)])
    assert spent.balances == ((False, 0, 5, -1, 0, 0),)


@_check
async def a_refused_cost_leaves_room_for_a_smaller_one(h: StoreHarness) -> None:
    units = [1000, 1500, 500, 400, 100, 1]
    spent = [(await h.store.spend([Charge("limit:a:1", 2000, _MINUTE_MS, cost)])).balances[0] for cost in units]
    assert [balance.allowed for balance in spent] == [True, False, True, True, True, False]
    assert [balance.remaining for balance in spent] == [1000, 1000, 500, 100, 0, 0]


@_check
async def large_numbers_stay_exact(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 2**31 - 1, 2**31 - 1, 2**30)
    await h.store.spend([charge])
    spent = await h.store.spend([Charge("limit:a:1", 2**31 - 1, 2**31 - 1, 2**30 - 1)])
    assert spent.allowed
    assert spent.balances[0].used == 2**31 - 1
    assert not (await h.store.spend([Charge("limit:a:1", 2**31 - 1, 2**31 - 1)])).allowed


@_check
async def a_lowered_quota_counts_what_was_spent(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 10, _MINUTE_MS, 6)])
    h.clock.advance(30)
    await h.store.spend([Charge("limit:a:1", 10, _MINUTE_MS, 4)])
    spent = await h.store.spend([Charge("limit:a:1", 4, _MINUTE_MS)])
    # Six units must go before one fits again, and those of the first moment are six; the seventh comes 30 s later.
    assert spent.balances == ((False, 10, 0, 61_000, 61_000, 61_000),)


@_check
async def another_window_length_starts_empty(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 1, _MINUTE_MS)])
    assert (await h.store.spend([Charge("limit:a:1", 1, 2 * _MINUTE_MS)])).allowed


@_check
async def a_shadow_charge_refuses_nobody(h: StoreHarness) -> None:
    real, shadow = Charge("limit:a:1", 5, _MINUTE_MS), Charge("limit:b:1", 1, _MINUTE_MS, shadow=True)
    answers = [await h.store.spend([real, shadow]) for _ in range(3)]
    assert [answer.allowed for answer in answers] == [True, True, True]
    assert [answer.balances[1].allowed for answer in answers] == [True, False, False]
    assert await h.used("limit:a:1") == 3
    assert await h.used("limit:b:1") == 1


@_check
async def a_clock_that_goes_back_brings_nothing_back(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 3, _MINUTE_MS)
    for _ in range(3):
        await h.store.spend([charge])
    h.clock.advance(-20)
    refused = await h.store.spend([charge])
    assert not refused.allowed
    assert refused.balances[0].retry_after_ms == 81_000
    h.clock.advance(81)
    assert (await h.store.spend([charge])).allowed


@_check
async def a_clock_set_back_by_more_than_a_window_starts_empty(h: StoreHarness) -> None:
    charge = Charge("limit:a:1", 1, _MINUTE_MS)
    await h.store.spend([charge])
    h.clock.advance(-3600)
    assert (await h.store.spend([charge])).allowed


@_check
async def a_refund_gives_back_the_newest_units(h: StoreHarness) -> None:
    one, two = Charge("limit:a:1", 5, _MINUTE_MS), Charge("limit:a:1", 5, _MINUTE_MS, 2)
    await h.store.spend([one])
    h.clock.advance(10)
    await h.store.spend([two])
    await h.store.refund([two])
    spent = await h.store.spend([one], commit=False)
    assert spent.balances == ((True, 1, 4, 0, 0, 51_000),)


@_check
async def a_refund_never_goes_below_empty(h: StoreHarness) -> None:
    await h.store.spend([Charge("limit:a:1", 5, _MINUTE_MS)])
    await h.store.refund([Charge("limit:a:1", 5, _MINUTE_MS, 100), Charge("limit:b:1", 5, _MINUTE_MS)])
    assert await h.used("limit:a:1") == 0
    answers = [(await h.store.spend([Charge("limit:a:1", 5, _MINUTE_MS)])).allowed for _ in range(6)]
    assert answers == [True] * 5 + [False]


@_check
async def a_key_has_one_owner(h: StoreHarness) -> None:
    claims = await asyncio.gather(*(h.store.claim("idempotency:o:k", b"f", lease_ms=1000) for _ in range(20)))
    states = [claim.state for claim in claims]
    assert states.count(ClaimState.CLAIMED) == 1
    assert states.count(ClaimState.IN_FLIGHT) == 19
    assert {claim.retry_after_ms for claim in claims if claim.state is ClaimState.IN_FLIGHT} == {1000}


@_check
async def a_finished_claim_is_replayed_until_its_time_is_over(h: StoreHarness) -> None:
    record = b"\x00\xff any bytes" * 1000
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, record, ttl_ms=50_000)
    found = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert (found.state, found.record) == (ClaimState.FINISHED, record)
    h.clock.advance(50)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).state is ClaimState.CLAIMED


@_check
async def an_empty_record_is_a_record(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, b"", ttl_ms=50_000)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).record == b""


@_check
async def another_fingerprint_mismatches_in_flight_and_finished(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert (await h.store.claim("idempotency:o:k", b"g", lease_ms=1000)).state is ClaimState.MISMATCH
    await h.store.finish("idempotency:o:k", claim.fence, b"r", ttl_ms=50_000)
    assert (await h.store.claim("idempotency:o:k", b"g", lease_ms=1000)).state is ClaimState.MISMATCH


@_check
async def a_lease_that_ran_out_is_taken_over_and_the_old_owner_fenced_out(h: StoreHarness) -> None:
    old = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    h.clock.advance(1)
    new = await h.store.claim("idempotency:o:k", b"g", lease_ms=1000)
    assert new.state is ClaimState.CLAIMED
    assert new.fence > old.fence
    assert not await h.store.finish("idempotency:o:k", old.fence, b"old", ttl_ms=50_000)
    assert not await h.store.renew("idempotency:o:k", old.fence, lease_ms=1000)
    assert not await h.store.release("idempotency:o:k", old.fence)
    assert await h.store.finish("idempotency:o:k", new.fence, b"new", ttl_ms=50_000)
    assert (await h.store.claim("idempotency:o:k", b"g", lease_ms=1000)).record == b"new"


@_check
async def a_late_owner_may_finish_when_nobody_took_over(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    h.clock.advance(GRACE_MS / 1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, b"late", ttl_ms=50_000)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).record == b"late"


@_check
async def a_renewed_lease_lasts_longer(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    h.clock.advance(0.9)
    assert await h.store.renew("idempotency:o:k", claim.fence, lease_ms=1000)
    h.clock.advance(0.9)
    found = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert (found.state, found.retry_after_ms) == (ClaimState.IN_FLIGHT, 100)


@_check
async def a_released_key_is_free_at_once_and_only_once(h: StoreHarness) -> None:
    first = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.release("idempotency:o:k", first.fence)
    assert not await h.store.release("idempotency:o:k", first.fence)
    assert not await h.store.finish("idempotency:o:k", first.fence, b"r", ttl_ms=1000)
    second = await h.store.claim("idempotency:o:k", b"other", lease_ms=1000)
    assert second.state is ClaimState.CLAIMED
    assert second.fence > first.fence


@_check
async def a_finished_claim_cannot_be_finished_renewed_or_released(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, b"first", ttl_ms=50_000)
    assert not await h.store.finish("idempotency:o:k", claim.fence, b"second", ttl_ms=50_000)
    assert not await h.store.renew("idempotency:o:k", claim.fence, lease_ms=1000)
    assert not await h.store.release("idempotency:o:k", claim.fence)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).record == b"first"


@_check
async def an_unknown_key_belongs_to_nobody(h: StoreHarness) -> None:
    assert not await h.store.finish("idempotency:o:k", 1, b"r", ttl_ms=1000)
    assert not await h.store.renew("idempotency:o:k", 1, lease_ms=1000)
    assert not await h.store.release("idempotency:o:k", 1)


store_contract: tuple[StoreCheck, ...] = tuple(_checks)
"""Every check of the contract, in a fixed order."""
