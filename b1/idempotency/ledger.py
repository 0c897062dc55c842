"""Who runs, who waits, who replays: duplicates in this process first, then those elsewhere through the store.

Merging in the process comes first because it costs no connection: with three of them for the whole host, duplicates that
wait inside Postgres would lock everybody else out. `_running` is written by `enter` and `leave` alone, never across an
await.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from b1.clock import Clock, remaining
from b1.errors import IdempotencyInFlight, IdempotencyKeyReused, Overloaded, StoreUnavailable
from b1.idempotency.errors import IdempotencyOutcomeNotStored
from b1.idempotency.fingerprint import Keyed
from b1.idempotency.options import IdempotencyOptions, ServiceOptions
from b1.idempotency.record import Outcome, Record, decode
from b1.store.base import ClaimState, Store

_POLL_GROWTH = 1.5
_POLL_MOST_S = 1.0


class Running:
    """One attempt of this process; `done` gives its outcome, or None when the key is free again.

    Attributes:
        fence: of the claim in the store; None when the store could not say, and Postgres decides alone.
    """

    __slots__ = ("done", "fence", "fingerprint", "waiters")

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.waiters = 0
        self.fence: int | None = None
        self.done: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        state = "done" if self.done.done() else "running"
        return f"<Running {state} waiters={self.waiters} fence={self.fence}>"

    def settle(self, outcome: Outcome | None) -> None:
        """Tell the waiters; the first word counts."""
        if not self.done.done():
            self.done.set_result(outcome)


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    requests: int = 0
    replays: int = 0
    mismatches: int = 0
    refused_in_flight: int = 0
    takeovers: int = 0
    lost_claims: int = 0
    not_storable: int = 0
    errors: int = 0
    purged: int = 0
    records: int = 0
    record_bytes: int = 0


class Ledger:
    """Gives a key to exactly one request of this process, and asks the store about all the others.

    Args:
        postgres_decides: a database is there, so a transactional route needs the store's word for nothing.
    """

    def __init__(
        self, store: Store, options: ServiceOptions, clock: Clock, counts: Counts, *, postgres_decides: bool
    ) -> None:
        self._store = store
        self._options = options
        self._clock = clock
        self._counts = counts
        self._postgres_decides = postgres_decides
        self._running: dict[str, Running] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._running)

    def __repr__(self) -> str:
        return f"<Ledger running={len(self._running)} waiting={self._waiting}>"

    @property
    def waiting(self) -> int:
        """Count of duplicates that wait now."""
        return self._waiting

    async def enter(self, keyed: Keyed, route: IdempotencyOptions) -> Running | Record:
        """Return the right to run (to be given back with `leave`), or the outcome to replay.

        Raises:
            IdempotencyKeyReused, IdempotencyInFlight, IdempotencyOutcomeNotStored: the key's answer is a refusal.
            StoreUnavailable: the store cannot say, and Postgres is not there to decide.
            Overloaded: too many attempts run.
        """
        self._counts.requests += 1
        until_s = self._clock.monotonic() + remaining(self._clock, route.wait_s)
        while (rival := self._running.get(keyed.store_key)) is not None:
            outcome = await self._join(rival, keyed, route, until_s)
            if outcome is not None:
                return self._replayable(outcome)
        if len(self._running) >= self._options.max_running:
            raise Overloaded(f"{len(self._running)} requests with an Idempotency-Key are running")
        running = self._running[keyed.store_key] = Running(keyed.fingerprint)
        try:
            outcome = await self._claim(running, keyed, route, until_s)
        except BaseException:
            self.leave(keyed, running, None)
            raise
        if outcome is None:
            return running
        self.leave(keyed, running, outcome)
        return self._replayable(outcome)

    def leave(self, keyed: Keyed, running: Running, outcome: Outcome | None) -> None:
        """Give the right to run back; whoever waited gets `outcome`, or may try when it is None."""
        if self._running.get(keyed.store_key) is running:
            del self._running[keyed.store_key]
        running.settle(outcome)

    async def _join(self, rival: Running, keyed: Keyed, route: IdempotencyOptions, until_s: float) -> Outcome | None:
        if rival.fingerprint != keyed.fingerprint:
            raise self.refuse_reuse(route)
        if not rival.done.done():
            if rival.waiters >= self._options.max_waiters:
                raise self.refuse_in_flight()
            rival.waiters += 1
            self._waiting += 1
            try:
                # wait() and not wait_for(): one waiter that gives up must not cancel the others' future.
                await asyncio.wait({rival.done}, timeout=max(0.0, until_s - self._clock.monotonic()))
            finally:
                rival.waiters -= 1
                self._waiting -= 1
            if not rival.done.done():
                raise self.refuse_in_flight()
        return rival.done.result()

    async def _claim(self, running: Running, keyed: Keyed, route: IdempotencyOptions, until_s: float) -> Outcome | None:
        postgres_decides = route.transactional and self._postgres_decides
        lease_ms = int(route.lease_s * 1000)
        pause_s = self._options.poll_s
        looks = 0
        while True:
            try:
                claim = await self._store.claim(keyed.store_key, keyed.fingerprint, lease_ms=lease_ms)
            except StoreUnavailable:
                self._counts.errors += 1
                if postgres_decides:
                    return None
                raise
            looks += 1
            if claim.state is ClaimState.CLAIMED:
                self._counts.takeovers += looks > 1
                running.fence = claim.fence
                return None
            if claim.state is ClaimState.MISMATCH:
                raise self.refuse_reuse(route)
            if claim.state is ClaimState.FINISHED:
                try:
                    return decode(claim.record or b"")
                except StoreUnavailable:
                    self._counts.errors += 1
                    if postgres_decides:  # its row is the truth, the store's record only a copy
                        return None
                    raise
            left_s = until_s - self._clock.monotonic()
            if left_s <= 0:
                if postgres_decides:
                    # The owner may be dead and its lease still runs. Its transaction is gone with it, which Postgres
                    # knows at once; if it lives, the claim there waits for the lock and then refuses.
                    self._counts.takeovers += 1
                    return None
                raise self.refuse_in_flight()
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * _POLL_GROWTH, _POLL_MOST_S)

    def _replayable(self, outcome: Outcome) -> Record:
        if isinstance(outcome, Record):
            self._counts.replays += 1
            return outcome
        raise IdempotencyOutcomeNotStored("its effect exists; look it up instead of repeating the request")

    def refuse_reuse(self, route: IdempotencyOptions) -> IdempotencyKeyReused:
        """Count and build the refusal of another payload, with the status that was asked for."""
        self._counts.mismatches += 1
        error = IdempotencyKeyReused("the key belongs to a request with another payload: use a new key")
        error.status = route.mismatch_status or self._options.mismatch_status
        return error

    def refuse_in_flight(self) -> IdempotencyInFlight:
        """Count and build the refusal of a duplicate that came too early."""
        self._counts.refused_in_flight += 1
        return IdempotencyInFlight("repeat the request with the same key a little later")
