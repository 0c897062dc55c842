"""The contract of claims: `claim`, `renew`, `finish`, `release`."""

from __future__ import annotations

import asyncio

from b1.store.base import GRACE_MS, ClaimState
from b1.testing.harness import StoreHarness, check


@check
async def a_key_has_one_owner(h: StoreHarness) -> None:
    claims = await asyncio.gather(*(h.store.claim("idempotency:o:k", b"f", lease_ms=1000) for _ in range(20)))
    states = [claim.state for claim in claims]
    assert states.count(ClaimState.CLAIMED) == 1
    assert states.count(ClaimState.IN_FLIGHT) == 19
    assert {claim.retry_after_ms for claim in claims if claim.state is ClaimState.IN_FLIGHT} == {1000}


@check
async def a_finished_claim_is_replayed_until_its_time_is_over(h: StoreHarness) -> None:
    record = b"\x00\xff any bytes" * 1000
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, record, ttl_ms=50_000)
    found = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert (found.state, found.record) == (ClaimState.FINISHED, record)
    h.clock.advance(50)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).state is ClaimState.CLAIMED


@check
async def an_empty_record_is_a_record(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, b"", ttl_ms=50_000)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).record == b""


@check
async def another_fingerprint_mismatches_in_flight_and_finished(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert (await h.store.claim("idempotency:o:k", b"g", lease_ms=1000)).state is ClaimState.MISMATCH
    await h.store.finish("idempotency:o:k", claim.fence, b"r", ttl_ms=50_000)
    assert (await h.store.claim("idempotency:o:k", b"g", lease_ms=1000)).state is ClaimState.MISMATCH


@check
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


@check
async def a_late_owner_may_finish_when_nobody_took_over(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    h.clock.advance(GRACE_MS / 1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, b"late", ttl_ms=50_000)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).record == b"late"


@check
async def a_renewed_lease_lasts_longer(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    h.clock.advance(0.9)
    assert await h.store.renew("idempotency:o:k", claim.fence, lease_ms=1000)
    h.clock.advance(0.9)
    found = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert (found.state, found.retry_after_ms) == (ClaimState.IN_FLIGHT, 100)


@check
async def a_released_key_is_free_at_once_and_only_once(h: StoreHarness) -> None:
    first = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.release("idempotency:o:k", first.fence)
    assert not await h.store.release("idempotency:o:k", first.fence)
    assert not await h.store.finish("idempotency:o:k", first.fence, b"r", ttl_ms=1000)
    second = await h.store.claim("idempotency:o:k", b"other", lease_ms=1000)
    assert second.state is ClaimState.CLAIMED
    assert second.fence > first.fence


@check
async def a_finished_claim_cannot_be_finished_renewed_or_released(h: StoreHarness) -> None:
    claim = await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)
    assert await h.store.finish("idempotency:o:k", claim.fence, b"first", ttl_ms=50_000)
    assert not await h.store.finish("idempotency:o:k", claim.fence, b"second", ttl_ms=50_000)
    assert not await h.store.renew("idempotency:o:k", claim.fence, lease_ms=1000)
    assert not await h.store.release("idempotency:o:k", claim.fence)
    assert (await h.store.claim("idempotency:o:k", b"f", lease_ms=1000)).record == b"first"


@check
async def an_unknown_key_belongs_to_nobody(h: StoreHarness) -> None:
    assert not await h.store.finish("idempotency:o:k", 1, b"r", ttl_ms=1000)
    assert not await h.store.renew("idempotency:o:k", 1, lease_ms=1000)
    assert not await h.store.release("idempotency:o:k", 1)
