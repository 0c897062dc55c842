"""Who runs, who waits, who replays: duplicates in this process first, then those elsewhere through the store.

Merging in the process comes first because it costs no connection: with three of them for the whole host, duplicates that
wait inside Postgres would lock everybody else out. `_running` is written by `enter` and `leave` alone, never across an
await.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from b1.clock import Clock, remaining
from b1.errors import IdempotencyInFlight, IdempotencyKeyReused, Overloaded, StoreUnavailable
from b1.idempotency.errors import IdempotencyOutcomeNotStored
from b1.idempotency.fingerprint import Comparison, Keyed, compare
from b1.idempotency.options import IdempotencyOptions, ServiceOptions
from b1.idempotency.record import Outcome, Record, decode
from b1.store.base import ClaimState, Store

_POLL_GROWTH = 1.5
_POLL_MOST_S = 1.0
_SHORTEST_RETRY_S = 1.0


class Waits(Protocol):
    """Whoever waits for another's outcome: it needs nothing of the host meanwhile, and says so to who admitted it."""

    def pause(self) -> None:
        """The wait begins."""
        ...

    def resume(self) -> None:
        """It is over, in whatever way."""
        ...


class Running:
    """One attempt of this process, and its outcome: None when the key is free again.

    Attributes:
        fence: of the claim in the store; None when the store could not say, and Postgres decides alone.
    """

    # Defaults on the class, and a future only for who waits: most attempts, and all replays, have no duplicates.
    fence: int | None = None
    waiters = 0
    is_done = False
    outcome: Outcome | None = None
    _done: asyncio.Future[None] | None = None

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        state = "done" if self.is_done else "running"
        return f"<Running {state} waiters={self.waiters} fence={self.fence}>"

    def settle(self, outcome: Outcome | None) -> None:
        """Tell the waiters; the first word counts."""
        if self.is_done:
            return
        self.is_done, self.outcome = True, outcome
        if self._done is not None:
            self._done.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Wait until it is done, or the time is over."""
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
        # wait() and not wait_for(): one waiter that gives up must not cancel the others' future.
        await asyncio.wait({self._done}, timeout=timeout_s)


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    requests: int = 0
    replays: int = 0
    mismatches: int = 0
    refused_in_flight: int = 0
    takeovers: int = 0
    lost_claims: int = 0
    not_compared: int = 0
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

    async def enter(self, keyed: Keyed, route: IdempotencyOptions, waits: Waits | None = None) -> Running | Record:
        """Return the right to run (to be given back with `leave`), or the outcome to replay.

        Raises:
            IdempotencyKeyReused, IdempotencyInFlight, IdempotencyOutcomeNotStored: the key's answer is a refusal.
            StoreUnavailable: the store cannot say, and Postgres is not there to decide.
            Overloaded: too many attempts run.
        """
        self._counts.requests += 1
        patience = _Patience(self._clock, route.wait_s, waits)
        while (rival := self._running.get(keyed.store_key)) is not None:
            outcome = await self._join(rival, keyed, route, patience)
            if outcome is not None:
                return self._replayable(outcome)
        if len(self._running) >= self._options.max_running:
            raise Overloaded(f"{len(self._running)} requests with an Idempotency-Key are running")
        running = self._running[keyed.store_key] = Running(keyed.fingerprint)
        try:
            outcome = await self._claim(running, keyed, route, patience)
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

    async def _join(
        self, rival: Running, keyed: Keyed, route: IdempotencyOptions, patience: _Patience
    ) -> Outcome | None:
        if rival.fingerprint != keyed.fingerprint:  # of one process, so by one definition
            raise self.refuse_reuse(route)
        if not rival.is_done:
            if rival.waiters >= self._options.max_waiters:
                raise self.refuse_in_flight()
            rival.waiters += 1
            self._waiting += 1
            try:
                await patience.wait_for(rival)
            finally:
                rival.waiters -= 1
                self._waiting -= 1
            if not rival.is_done:
                raise self.refuse_in_flight()
        return rival.outcome

    async def _claim(
        self, running: Running, keyed: Keyed, route: IdempotencyOptions, patience: _Patience
    ) -> Outcome | None:
        postgres_decides = route.transactional and self._postgres_decides
        lease_ms = int(route.lease_s * 1000)
        pause_s = self._options.poll_s
        asked, is_compared, looks, released = keyed.fingerprint, True, 0, 0
        while True:
            try:
                claim = await self._store.claim(keyed.store_key, asked, lease_ms=lease_ms)
            except StoreUnavailable:
                self._counts.errors += 1
                if postgres_decides:
                    return None
                raise
            looks += 1
            if claim.state is ClaimState.FINISHED:
                outcome = self._decoded(claim.record, postgres_decides=postgres_decides)
                return outcome if is_compared or outcome is None else self.not_compared(outcome)
            if claim.state is ClaimState.CLAIMED:
                self._counts.takeovers += looks > 1
                running.fence = claim.fence
                return None
            if claim.state is ClaimState.MISMATCH:
                # From here on the claim is asked for by the name that it goes by in the store.
                is_compared, asked = await self._compared(claim.fingerprint, keyed, route), claim.fingerprint
                continue
            if postgres_decides and claim.is_owner_gone and claim.fence != released:
                # Its transaction is gone with it, so nothing has to be waited for: the claim is free for the next look.
                released = claim.fence
                await self._release_for(released, keyed)
                continue
            left_s = patience.left_s()
            if left_s <= 0:
                if postgres_decides:
                    # The owner may be dead and its lease still runs. Its transaction is gone with it, which Postgres
                    # knows at once; if it lives, the claim there waits for the lock and then refuses.
                    self._counts.takeovers += 1
                    return None
                raise self.refuse_in_flight()
            if claim.is_owner_gone and claim.retry_after_ms / 1000 > left_s:
                raise self.refuse_in_flight(claim.retry_after_ms / 1000)  # nobody is left who could finish
            await patience.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * _POLL_GROWTH, _POLL_MOST_S)

    async def _compared(self, stored: bytes, keyed: Keyed, route: IdempotencyOptions) -> bool:
        """Say whether the payloads could be compared, and agree.

        Raises:
            IdempotencyKeyReused: they do not.
        """
        found = await compare(stored, keyed)
        if found is Comparison.OTHER or not stored:
            raise self.refuse_reuse(route)
        return found is Comparison.SAME

    async def _release_for(self, fence: int, keyed: Keyed) -> None:
        try:
            await self._store.release(keyed.store_key, fence)
        except StoreUnavailable:
            self._counts.errors += 1  # the next look says so too, and is heard

    def _decoded(self, record: bytes | None, *, postgres_decides: bool) -> Outcome | None:
        try:
            return decode(record or b"")
        except StoreUnavailable:
            self._counts.errors += 1
            if postgres_decides:  # its row is the truth, the store's record only a copy
                return None
            raise

    def not_compared(self, outcome: Outcome) -> Outcome:
        """Count and mark an outcome that is given to whoever has its key, since payloads could not be compared."""
        self._counts.not_compared += 1
        return outcome._replace(is_compared=False) if isinstance(outcome, Record) else outcome

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

    def refuse_in_flight(self, retry_after_s: float | None = None) -> IdempotencyInFlight:
        """Count and build the refusal of a duplicate that came too early."""
        self._counts.refused_in_flight += 1
        error = IdempotencyInFlight("repeat the request with the same key a little later")
        if retry_after_s is not None:
            error.retry_after = max(_SHORTEST_RETRY_S, retry_after_s)
        return error


class _Patience:
    """How long one request may still wait for others; its clock starts with the first question."""

    __slots__ = ("_clock", "_until_s", "_wait_s", "_waits")

    def __init__(self, clock: Clock, wait_s: float, waits: Waits | None) -> None:
        self._clock = clock
        self._wait_s = wait_s
        self._waits = waits
        self._until_s: float | None = None

    def left_s(self) -> float:
        now_s = self._clock.monotonic()
        if self._until_s is None:
            self._until_s = now_s + remaining(self._clock, self._wait_s)
        return max(0.0, self._until_s - now_s)

    async def wait_for(self, rival: Running) -> None:
        await self._idle(rival.wait(self.left_s()))

    async def sleep(self, pause_s: float) -> None:
        await self._idle(asyncio.sleep(pause_s))

    async def _idle(self, waiting: Coroutine[Any, Any, None]) -> None:
        if self._waits is None:
            await waiting
            return
        self._waits.pause()
        try:
            await waiting
        finally:
            self._waits.resume()
