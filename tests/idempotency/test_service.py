"""Without Postgres: one owner per key, its waiters, its lease, and a store that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from b1.clock import ManualClock
from b1.errors import (
    IdempotencyInFlight,
    IdempotencyKeyReused,
    InvalidSetting,
    NotRunning,
    Overloaded,
    StoreUnavailable,
)
from b1.idempotency import (
    Answer,
    Attempt,
    Idempotency,
    IdempotencyOptions,
    Keyed,
    Proceed,
    Record,
    ServiceOptions,
)
from b1.idempotency.fingerprint import CURRENT
from b1.store.base import ClaimState
from b1.store.memory import MemoryStore
from b1.units import KIB, MIB
from tests.idempotency.harness import until

DONE = Answer(201, [(b"content-type", b"text/plain")], b"done")
AT_ONCE = IdempotencyOptions(wait_s=0.0)
PATIENT = IdempotencyOptions(wait_s=20.0)
# Fingerprints begin with the version of their definition.
SAME, OTHER = bytes((CURRENT,)) + b"same", bytes((CURRENT,)) + b"other"


def keyed(name: str = "k", fingerprint: bytes = SAME) -> Keyed:
    return Keyed(
        store_key=f"idempotency:1:{name}",
        digest=name.encode().ljust(32),
        fingerprint=fingerprint,
        organization="1",
        actor="ann",
    )


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(MIB, clock)


@pytest.fixture
def service(store: MemoryStore, clock: ManualClock) -> Idempotency:
    return Idempotency(store, clock=clock)


async def begin(service: Idempotency, one: Keyed | None = None, route: IdempotencyOptions = AT_ONCE) -> Attempt:
    begun = await service.begin(one or keyed(), route)
    assert isinstance(begun, Attempt)
    return begun


async def test_the_outcome_is_replayed_until_its_time_is_over(service: Idempotency, clock: ManualClock) -> None:
    attempt = await begin(service)
    assert await attempt.settle(DONE) == Proceed()
    clock.advance(86_399)
    again = await service.begin(keyed(), AT_ONCE)
    assert isinstance(again, Record) and (again.status, again.body, again.actor) == (201, b"done", "ann")
    clock.advance(2)
    await begin(service)


async def test_the_original_time_is_that_of_the_answer(service: Idempotency, clock: ManualClock) -> None:
    attempt = await begin(service)
    clock.advance(3)
    await attempt.settle(DONE)
    again = await service.begin(keyed(), AT_ONCE)
    assert isinstance(again, Record) and again.original_ms == int(clock.wall() * 1000)


async def test_another_payload_is_refused_in_flight_and_finished(service: Idempotency) -> None:
    attempt = await begin(service)
    for _ in range(2):
        with pytest.raises(IdempotencyKeyReused) as refused:
            await service.begin(keyed(fingerprint=OTHER), AT_ONCE)
        assert refused.value.status == 409
        await attempt.settle(DONE)


async def test_an_impatient_duplicate_is_refused(service: Idempotency) -> None:
    attempt = await begin(service)
    with pytest.raises(IdempotencyInFlight):
        await service.begin(keyed(), AT_ONCE)
    await attempt.settle(DONE)
    assert (service.snapshot().conflicts, service.snapshot().in_flight) == (1, 0)


async def test_at_most_four_wait_and_all_get_the_one_answer(service: Idempotency) -> None:
    attempt = await begin(service)
    waiters = [asyncio.create_task(service.begin(keyed(), PATIENT)) for _ in range(4)]
    await until(lambda: service.snapshot().waiting == 4)
    with pytest.raises(IdempotencyInFlight):
        await service.begin(keyed(), PATIENT)
    await attempt.settle(DONE)
    answers = await asyncio.gather(*waiters)
    assert all(isinstance(answer, Record) and answer.body == b"done" for answer in answers)
    assert (service.snapshot().replays, service.snapshot().waiting) == (4, 0)


async def test_when_the_owner_fails_one_waiter_takes_over(service: Idempotency) -> None:
    attempt = await begin(service)
    waiters = [asyncio.create_task(service.begin(keyed(), PATIENT)) for _ in range(3)]
    await until(lambda: service.snapshot().waiting == 3)
    await attempt.settle(None)
    done, _ = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    (second,) = (task.result() for task in done)
    assert isinstance(second, Attempt)
    await second.settle(DONE)
    answers = await asyncio.gather(*waiters)
    assert sum(isinstance(answer, Record) for answer in answers) == 2


async def test_a_waiter_that_leaves_takes_nobody_along(service: Idempotency) -> None:
    attempt = await begin(service)
    leaver, stayer = (asyncio.create_task(service.begin(keyed(), PATIENT)) for _ in range(2))
    await until(lambda: service.snapshot().waiting == 2)
    leaver.cancel()
    await until(leaver.done)
    await attempt.settle(DONE)
    assert isinstance(await stayer, Record) and service.snapshot().waiting == 0


async def test_a_rival_elsewhere_is_polled_for_its_outcome(
    service: Idempotency, store: MemoryStore, clock: ManualClock
) -> None:
    elsewhere = Idempotency(store, clock=clock)
    attempt = await begin(elsewhere)
    waiter = asyncio.create_task(service.begin(keyed(), PATIENT))
    await until(lambda: service.snapshot().in_flight == 1)
    await attempt.settle(DONE)
    assert isinstance(await waiter, Record)


async def test_a_rival_elsewhere_that_died_is_followed_after_its_lease(
    service: Idempotency, store: MemoryStore, clock: ManualClock
) -> None:
    one = keyed()
    claimed = await store.claim(one.store_key, one.fingerprint, lease_ms=30_000)
    with pytest.raises(IdempotencyInFlight):
        await service.begin(one, AT_ONCE)
    clock.advance(31)
    attempt = await begin(service, one)
    assert await store.finish(one.store_key, claimed.fence, b"late", ttl_ms=1000) is False
    assert await attempt.settle(DONE) == Proceed()


async def test_an_owner_that_lost_its_claim_says_so(
    service: Idempotency, store: MemoryStore, clock: ManualClock
) -> None:
    attempt = await begin(service)
    clock.advance(31)
    one = keyed()
    assert (await store.claim(one.store_key, one.fingerprint, lease_ms=30_000)).state is ClaimState.CLAIMED
    assert await attempt.settle(DONE) == Proceed(stored=False)
    assert (service.snapshot().lost_claims, service.snapshot().not_storable) == (1, 1)


async def test_a_living_owner_keeps_its_claim(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[int] = []
    real = store.renew

    async def renew(key: str, fence: int, *, lease_ms: int) -> bool:
        renewed.append(lease_ms)
        return await real(key, fence, lease_ms=lease_ms)

    monkeypatch.setattr(store, "renew", renew)
    service = Idempotency(store)
    attempt = await begin(service, route=IdempotencyOptions(lease_s=1.0))
    await until(lambda: len(renewed) == 2)
    await attempt.settle(DONE)
    assert renewed == [1000, 1000]
    await service.aclose()


def broken(store: MemoryStore, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(store, verb, fail)


async def test_without_a_store_nothing_starts(
    service: Idempotency, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(store, monkeypatch, "claim")
    with pytest.raises(StoreUnavailable):
        await service.begin(keyed(), AT_ONCE)
    assert (service.snapshot().in_flight, service.snapshot().errors) == (0, 1)


async def test_a_record_that_cannot_be_kept_is_admitted(
    service: Idempotency, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = await begin(service)
    broken(store, monkeypatch, "finish")
    assert await attempt.settle(DONE) == Proceed(stored=False)
    assert (service.snapshot().errors, service.snapshot().not_storable, service.snapshot().in_flight) == (1, 1, 0)


async def test_a_full_store_refuses_before_the_handler_runs(clock: ManualClock) -> None:
    service = Idempotency(MemoryStore(2 * KIB, clock), clock=clock)
    await begin(service)
    with pytest.raises(StoreUnavailable):
        await service.begin(keyed("another"), AT_ONCE)


async def test_a_damaged_record_in_the_store_is_refused(service: Idempotency, store: MemoryStore) -> None:
    one = keyed()
    claim = await store.claim(one.store_key, one.fingerprint, lease_ms=1000)
    await store.finish(one.store_key, claim.fence, b"noise", ttl_ms=10_000)
    with pytest.raises(StoreUnavailable):
        await service.begin(one, AT_ONCE)
    assert service.snapshot().in_flight == 0


async def test_the_number_of_attempts_is_bounded(store: MemoryStore, clock: ManualClock) -> None:
    service = Idempotency(store, options=ServiceOptions(max_running=2), clock=clock)
    for number in range(2):
        await begin(service, keyed(f"k{number}"))
    with pytest.raises(Overloaded):
        await service.begin(keyed("k2"), AT_ONCE)


async def test_settling_twice_gives_the_first_verdict(service: Idempotency) -> None:
    attempt = await begin(service)
    assert [await attempt.settle(DONE), await attempt.settle(None)] == [Proceed(), Proceed()]
    assert isinstance(await service.begin(keyed(), AT_ONCE), Record)


async def test_after_the_end_nothing_begins(service: Idempotency) -> None:
    await service.start()
    await service.aclose()
    with pytest.raises(NotRunning):
        await service.begin(keyed(), AT_ONCE)


async def test_closing_cancels_what_does_not_end(store: MemoryStore) -> None:
    service = Idempotency(store, options=ServiceOptions(drain_s=0.01))
    attempt = await begin(service)

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await attempt.settle(None)

    task = service.spawn(stuck(), name="stuck")
    await asyncio.sleep(0)
    await service.aclose()
    assert task.cancelled() and service.snapshot().in_flight == 0
    one = keyed()
    assert (await store.claim(one.store_key, one.fingerprint, lease_ms=1)).state is ClaimState.CLAIMED


@pytest.mark.parametrize(
    "make",
    [
        lambda: IdempotencyOptions(body_cap_bytes=2 * MIB),
        lambda: IdempotencyOptions(wait_s=-1),
        lambda: IdempotencyOptions(ttl_s=0),
        lambda: IdempotencyOptions(lease_s=0),
        lambda: ServiceOptions(mismatch_status=400),
        lambda: ServiceOptions(max_waiters=-1),
        lambda: ServiceOptions(max_running=0),
        lambda: ServiceOptions(poll_s=0),
        lambda: ServiceOptions(lock_timeout_ms=0),
        lambda: ServiceOptions(purge_batch=0),
    ],
)
def test_impossible_options_stop_the_start(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidSetting, match="expected"):
        make()


async def test_reprs_show_the_state(service: Idempotency) -> None:
    attempt = await begin(service)
    assert "running=1" in repr(service) and repr(attempt).endswith("running>")
    await attempt.settle(DONE)
    assert "running=0" in repr(service) and repr(attempt).endswith("settled>")
