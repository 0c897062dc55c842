"""The service: one per process, shared by all requests. Owns the tasks that outlive a request, and the clean-up.

A request's work runs in a task of this service, so that a client that leaves after the handler began does not leave a key
without an outcome. The count of those tasks is bounded by `ServiceOptions.max_running`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from b1.clock import Clock, SystemClock
from b1.errors import IdempotencyInFlight, IdempotencyKeyReused, NotRunning, RequestError
from b1.idempotency import purging
from b1.idempotency.attempt import Attempt, Refuse, Replay
from b1.idempotency.fingerprint import Keyed
from b1.idempotency.ledger import Counts, Ledger, Waits
from b1.idempotency.options import IdempotencyOptions, ServiceOptions
from b1.idempotency.purging import Purge, Purged
from b1.idempotency.record import Record
from b1.idempotency.spool import Spools
from b1.idempotency.transactional import LeaseSource
from b1.idempotency.usage import Measured, Usage, usage_of
from b1.store.base import Store

log = logging.getLogger("b1.idempotency")

T = TypeVar("T")
_LAST_WORD_S = 1.0


@dataclass(frozen=True, slots=True)
class IdempotencySnapshot:
    """What the service says about itself; counts are since the start.

    Attributes:
        requests: keyed requests that asked for their key.
        hit_rate: share of them that were replays, 0 to 1; None before the first.
        in_flight: attempts that run now in this process, those whose client has left included.
        waiting: duplicates that wait now for one of them.
        conflicts: duplicates that were refused: for another payload, or because the first still ran.
        mismatches: the first kind of them.
        takeovers: keys taken from an owner that fell silent.
        lost_claims: claims in the store that ran out under their owner.
        not_compared: replays to whoever had the key: by which definition its payload was digested, this version of b1
            does not know.
        not_storable: answers that went out with ``Idempotency-Stored: false``.
        errors: failures of the store, and of the clean-up.
        purged: expired rows deleted from Postgres.
        records, record_bytes: outcomes given to the store since the start, and their size without key and overhead.
        spooled_bytes: request bodies that lie on disk now.
        store_mode: ``memory``, ``redis`` or ``local``.
        store_keys: keys in the store, those of other features included.
    """

    in_flight: int
    waiting: int
    replays: int
    conflicts: int
    mismatches: int
    takeovers: int
    lost_claims: int
    not_storable: int
    errors: int
    purged: int
    requests: int
    hit_rate: float | None
    records: int
    record_bytes: int
    spooled_bytes: int
    transactional: bool
    store_mode: str
    store_connected: bool
    store_keys: int
    store_held_bytes: int
    not_compared: int = 0


class Idempotency:
    """Runs each keyed request once and gives its answer as often as it is asked for.

    Args:
        store: claims and copies of records.
        database: where records live beside their effects; None: the store alone holds them.
    """

    def __init__(
        self,
        store: Store,
        database: LeaseSource | None = None,
        options: ServiceOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self.database = database
        self.options = options or ServiceOptions()
        self.clock: Clock = clock or SystemClock()
        self.counts = Counts()
        self.spools = Spools(self.options.spool)
        self.ledger = Ledger(store, self.options, self.clock, self.counts, postgres_decides=database is not None)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._settling: set[asyncio.Task[Any]] = set()
        self._purging: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        where = "postgres" if self.database is not None else "store"
        return f"<Idempotency {where} {self.ledger!r} tasks={len(self._tasks)}>"

    async def start(self) -> None:
        """Start the clean-up of expired rows, where there is a database."""
        if self.database is not None and self.options.purge_interval_s > 0 and self._purging is None:
            self._purging = asyncio.create_task(self._purge_for_ever(), name="b1-idempotency-purge")

    async def aclose(self) -> None:
        """Refuse new keys, wait up to `drain_s` for what runs, then cancel the rest."""
        self._closed = True
        if self._purging is not None:
            self._purging.cancel()
            await asyncio.wait({self._purging})
            self._purging = None
        await self._drain(self.options.drain_s)
        for task in self._tasks - self._settling:
            task.cancel()
        await self._drain(self.options.settle_s)  # a cancelled attempt still gives back what it holds
        for task in self._tasks:
            task.cancel()
        await self._drain(_LAST_WORD_S)
        await self.spools.aclose()

    async def _drain(self, limit_s: float) -> None:
        until_s = asyncio.get_running_loop().time() + limit_s
        while self._tasks and (left_s := until_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str, settles: bool = False) -> asyncio.Task[T]:
        """Run `work` in a task that `aclose` waits for; one that `settles` an outcome is the last to be cancelled."""
        task = asyncio.create_task(work, name=name)
        if settles:
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def begin(self, keyed: Keyed, route: IdempotencyOptions, waits: Waits | None = None) -> Attempt | Record:
        """Return the right to run the request, or the answer to replay.

        Args:
            waits: is told when the request begins and ends to wait for another's outcome.

        Raises:
            IdempotencyError: the key's answer is a refusal.
            StoreUnavailable, Overloaded: nobody can say, or too much is running.
            NotRunning: the service was closed.
        """
        if self._closed:
            raise NotRunning("the idempotency service is closed")
        entered = await self.ledger.enter(keyed, route, waits)
        return entered if isinstance(entered, Record) else Attempt(self, keyed, route, entered)

    def verdict_of(self, known: Record | RequestError, route: IdempotencyOptions) -> Replay | Refuse:
        """Count and dress what Postgres said about a key."""
        if isinstance(known, Record):
            self.counts.replays += 1
            self.counts.not_compared += not known.is_compared
            return Replay(known)
        if isinstance(known, IdempotencyKeyReused):
            return Refuse(self.ledger.refuse_reuse(route))
        if isinstance(known, IdempotencyInFlight):
            return Refuse(self.ledger.refuse_in_flight())
        return Refuse(known)

    async def purge_expired(self, limit: int | None = None) -> int:
        """Delete up to `limit` expired rows and return how many went; a living row is never waited for."""
        if self.database is None:
            return 0
        limit = limit or self.options.purge_batch
        gone = await purging.purge_expired(self.database, limit, timeout_s=self.options.acquire_timeout_s)
        self.counts.purged += gone
        return gone

    async def purge_organization(
        self, organization: str | None, *, after: str = "", limit_s: float | None = None
    ) -> Purged:
        """Forget every finished key of an organisation: what was asked under one of them may then happen again.

        What is in flight meanwhile is not touched; call it when the organisation can ask for nothing any more.

        Args:
            after: the `next` of an earlier call that came to the end of its time.
            limit_s: stop then, between two slices; None: go on to the end.

        Raises:
            MalformedRequest: `after` is none.
            DatabaseBusy, DatabaseUnavailable, StoreUnavailable: in the middle; what is gone is gone, and a repeat goes on.
        """
        options = self.options
        sweep = Purge(self.store, self.database, organization, options.purge_batch, options.acquire_timeout_s)
        return await sweep.run(self.clock, after=after, limit_s=limit_s)

    async def usage(self) -> Usage:
        """Ask the store how full it is: one round trip, for a look now and then (`warnings_of` judges it).

        Raises:
            StoreUnavailable: the store is away.
        """
        if isinstance(self.store, Measured):
            return usage_of(await self.store.usage())
        seen = self.store.snapshot()
        ratio = seen.held_bytes / seen.limit_bytes if seen.limit_bytes else None
        return Usage(seen.keys, seen.held_bytes, seen.limit_bytes, ratio, None, None, None, False)

    async def _purge_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.options.purge_interval_s)
            try:
                # One lease per batch: the requests that wait for a connection come in between.
                while await self.purge_expired() >= self.options.purge_batch:
                    continue
            except Exception:  # a busy or absent database is normal; the next round tries again
                self.counts.errors += 1
                log.warning("idempotency clean-up failed", exc_info=True)

    def snapshot(self) -> IdempotencySnapshot:
        """Return numbers for health, metrics and tests; no I/O."""
        store, counts = self.store.snapshot(), self.counts
        return IdempotencySnapshot(
            in_flight=len(self.ledger),
            waiting=self.ledger.waiting,
            replays=counts.replays,
            conflicts=counts.mismatches + counts.refused_in_flight,
            mismatches=counts.mismatches,
            takeovers=counts.takeovers,
            lost_claims=counts.lost_claims,
            not_storable=counts.not_storable,
            errors=counts.errors,
            purged=counts.purged,
            requests=counts.requests,
            hit_rate=counts.replays / counts.requests if counts.requests else None,
            records=counts.records,
            record_bytes=counts.record_bytes,
            spooled_bytes=self.spools.snapshot().held_bytes,
            transactional=self.database is not None,
            store_mode=store.mode,
            store_connected=store.connected,
            store_keys=store.keys,
            store_held_bytes=store.held_bytes,
            not_compared=counts.not_compared,
        )
