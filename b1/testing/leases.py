"""The contract of leases: at most so many held at a time, given back or taken away."""

from __future__ import annotations

from b1.store.base import LEASE_RETRY_MS, Charge, Spent
from b1.store.terms import Terms
from b1.testing.harness import MINUTE_MS, StoreHarness, check

_LEASE = Charge("lease:a:1", 2, MINUTE_MS, 1, False, "lease")


async def _take(h: StoreHarness, holder: str, charge: Charge = _LEASE) -> Spent:
    return await h.store.spend([charge], terms=Terms(holder=holder))


@check
async def no_more_than_the_quota_is_held_at_a_time(h: StoreHarness) -> None:
    assert [(await _take(h, holder)).allowed for holder in "abc"] == [True, True, False]
    refused = await _take(h, "d")
    assert refused.balances == ((False, 2, 0, LEASE_RETRY_MS, LEASE_RETRY_MS, LEASE_RETRY_MS),)


@check
async def a_lease_that_is_given_back_is_free_at_once(h: StoreHarness) -> None:
    await _take(h, "a")
    await _take(h, "b")
    await h.store.refund([_LEASE], holder="a")
    assert (await _take(h, "c")).allowed
    assert not (await _take(h, "d")).allowed


@check
async def nobody_gives_back_what_another_one_holds(h: StoreHarness) -> None:
    await _take(h, "a")
    await h.store.refund([_LEASE], holder="b")
    await h.store.refund([_LEASE], holder="a")
    await h.store.refund([_LEASE], holder="a")
    assert (await h.store.spend([_LEASE], commit=False)).balances[0].used == 0


@check
async def a_lease_of_one_who_was_lost_ends(h: StoreHarness) -> None:
    await _take(h, "a")
    h.clock.advance(30)
    await _take(h, "b")
    h.clock.advance(30)
    assert [(await _take(h, holder)).allowed for holder in "cd"] == [True, False]


@check
async def a_lease_is_refused_with_all(h: StoreHarness) -> None:
    window = Charge("limit:a:1", 1, MINUTE_MS)
    assert (await h.store.spend([window, _LEASE], terms=Terms(holder="a"))).allowed
    assert not (await h.store.spend([window, _LEASE], terms=Terms(holder="b"))).allowed
    assert (await h.store.spend([_LEASE], commit=False)).balances[0].used == 1


@check
async def a_lease_of_several_units_is_held_and_given_back_whole(h: StoreHarness) -> None:
    both = Charge(_LEASE.key, 2, MINUTE_MS, 2, False, "lease")
    assert (await _take(h, "a", both)).allowed
    assert not (await _take(h, "b")).allowed
    await h.store.refund([both], holder="a")
    assert (await h.store.spend([_LEASE], commit=False)).balances[0].used == 0
    assert (await _take(h, "b", Charge(_LEASE.key, 2, MINUTE_MS, 3, False, "lease"))).balances[0].retry_after_ms == -1
