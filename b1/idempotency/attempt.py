"""One request that owns its key: what its handler may do, and how its outcome becomes certain.

`settle` runs in a task of the service, never in the request's: a deadline or a client that leaves may cancel the request
between the COMMIT and its answer, and must not cut the COMMIT itself in two.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from b1.clock import DEADLINE, remaining
from b1.errors import ConfigurationError, DatabaseBusy, DatabaseUnavailable, RequestError, StoreUnavailable
from b1.idempotency.digests import digest_of
from b1.idempotency.fingerprint import Keyed
from b1.idempotency.headers import storable_headers
from b1.idempotency.ledger import Running
from b1.idempotency.options import IdempotencyOptions
from b1.idempotency.outcome import Answer, Meaning, meaning
from b1.idempotency.record import Outcome, Record, Unstored, encode, entity_of
from b1.idempotency.transactional import Deferred, Elsewhere, Savepoint, Transaction, TransactionOver, is_lost

if TYPE_CHECKING:
    from b1.idempotency.service import Idempotency

log = logging.getLogger("b1.idempotency")


class Concluded(BaseException):
    """Leaves the handler because Postgres already has the answer.

    A BaseException, so that neither a handler's ``except Exception`` nor a framework's error page takes it for a failure.
    Should something catch it all the same: the attempt remembers its verdict, and what the handler answers is dropped.
    """


@dataclass(frozen=True, slots=True)
class Proceed:
    """Send the handler's own answer; `stored` is False when it could not be kept."""

    stored: bool = True


@dataclass(frozen=True, slots=True)
class Replay:
    """Send what was stored."""

    record: Record


@dataclass(frozen=True, slots=True)
class Refuse:
    """Send this refusal instead of the handler's answer."""

    error: RequestError


Verdict = Proceed | Replay | Refuse


class Attempt:
    """The handler's side of its key. `transaction` is for handlers, all the rest for the layer that owns the attempt."""

    def __init__(self, service: Idempotency, keyed: Keyed, route: IdempotencyOptions, running: Running) -> None:
        self._service = service
        self._keyed = keyed
        self._route = route
        self._running = running
        self._deferred: Deferred | None = None
        self._undo_due = False
        self._known: Replay | Refuse | None = None
        self._known_ttl_s = 0.0
        self._committed = False
        # Not its task: the context of that holds the request, the request this, and so until the collector comes.
        self._is_settling = False
        self._verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._renewal: asyncio.TimerHandle | None = None
        self._plan_renewal()

    def __repr__(self) -> str:
        working = "running" if self._deferred is None else "in transaction"
        state = "settled" if self._verdict.done() else working
        return f"<Attempt {self._keyed.digest.hex()[:12]} {state}>"

    @property
    def known(self) -> bool:
        """Whether Postgres has already said what the answer is."""
        return self._known is not None

    @property
    def open_transaction(self) -> Transaction:
        """The transaction that a block has opened.

        Raises:
            TransactionOver: none is open.
        """
        if self._deferred is None:
            raise TransactionOver("no block has opened a transaction")
        return self._deferred.transaction

    def key_for(self, step: str) -> str:
        """Return a key for a call to another service: the same in every try of this request, and in no other request.

        A UUID, which every service takes; who reads it learns nothing of the client's key.
        """
        derived = digest_of([b"derived/1", self._keyed.digest, self._keyed.fingerprint, step.encode()])
        return str(uuid.UUID(bytes=derived[:16], version=5))

    def transaction(self) -> Block:
        """Return the block in which the handler makes its effects.

        ``async with attempt.transaction() as tx`` gives a `Transaction`. The commit comes with the answer. Blocks in one
        request share the transaction; one that is left by an exception undoes its own statements.

        Raises (on entering):
            ConfigurationError: no database is configured.
            DatabaseBusy, DatabaseUnavailable: as any other lease.
        """
        return Block(self)

    async def enter_transaction(self) -> Savepoint | None:
        """Open the deferred transaction, or go on in it behind a savepoint; for `Block`."""
        if self._is_settling:
            raise TransactionOver("the answer of this request was given; its transaction is over")
        if self._deferred is None:
            self._deferred = await self._open()
            return None
        await self._undo()
        savepoint = self._deferred.transaction.savepoint()
        await savepoint.__aenter__()
        return savepoint

    async def _open(self) -> Deferred:
        service = self._service
        if service.database is None:
            raise ConfigurationError("transaction() needs a database", remedy="set DATABASE_URL")
        try:
            return await Deferred.open(
                service.database,
                self._keyed,
                ttl_s=self._route.ttl_s,
                lock_timeout_ms=service.options.lock_timeout_ms,
                acquire_timeout_s=remaining(service.clock, service.options.acquire_timeout_s),
            )
        except Elsewhere as elsewhere:
            self._learn(elsewhere)
        raise Concluded

    def _learn(self, elsewhere: Elsewhere) -> Replay | Refuse:
        self._known = self._service.verdict_of(elsewhere.verdict, self._route)
        self._known_ttl_s = elsewhere.ttl_s
        return self._known

    async def leave_transaction(self, savepoint: Savepoint | None, error: BaseException | None) -> None:
        """Undo the block that failed; for `Block`. Cancelled tasks do not wait, the undoing comes with the outcome."""
        if self._deferred is None or self._is_settling:
            return
        can_wait = isinstance(error, Exception) and not is_lost(error)
        if savepoint is not None and (error is None or can_wait):
            await savepoint.__aexit__(None if error is None else type(error), error, None)
        elif error is not None:
            self._undo_due = True
            if can_wait:
                await self._undo()

    async def _undo(self) -> None:
        if self._deferred is not None and self._undo_due:
            await self._deferred.undo_effect()
            self._undo_due = False

    async def settle(self, answer: Answer | None, *, storable: bool = True) -> Verdict:
        """Make the outcome certain and return what the client gets. Any number of callers get the one verdict."""
        if not self._is_settling:
            self._stop_renewal()
            judged = meaning(answer, storable=storable)
            self._is_settling = True
            settling = self._service.spawn(self._settle(answer, judged), name="b1-idempotency-settle", settles=True)
            settling.add_done_callback(self._abandon)
        return await asyncio.shield(self._verdict)

    def _abandon(self, _: asyncio.Task[None]) -> None:
        """Leave nobody waiting when the settling was cancelled; does nothing after it came to its end."""
        self._verdict.cancel()
        self._service.ledger.leave(self._keyed, self._running, None)

    async def _settle(self, answer: Answer | None, judged: Meaning) -> None:
        # The handler's deadline may be over by now; the commit has one of its own.
        DEADLINE.set(self._service.clock.monotonic() + self._service.options.settle_s)
        try:
            verdict, outcome = await self._decide(answer, judged)
        except Exception:
            # The handler swallowed an error of Postgres, say, and then answered 201: nothing was committed.
            log.exception("idempotency outcome lost", extra={"key": self._keyed.digest.hex()[:12]})
            verdict, outcome = Refuse(RequestError("nothing was changed: the outcome could not be committed")), None
        if self._committed and outcome is not None:
            # Postgres has it: neither the answer nor a waiting duplicate needs the store's copy.
            self._running.settle(outcome)
            self._verdict.set_result(verdict)
            await self._give_back(outcome)
            return
        # Without a commit the store comes first: the retry that follows a 500 at once must find the key free.
        kept = await self._give_back(outcome)
        if isinstance(outcome, Unstored) or (isinstance(verdict, Proceed) and outcome is not None and not kept):
            verdict = self._not_stored()
        self._verdict.set_result(verdict)

    async def _decide(self, answer: Answer | None, judged: Meaning) -> tuple[Verdict, Outcome | None]:
        if self._known is not None:
            return self._known, self._known.record if isinstance(self._known, Replay) else None
        if answer is None or judged is Meaning.FORGET:
            if self._deferred is not None:
                await self._deferred.rollback()
            return Proceed(), None
        outcome = self._outcome(answer)
        if self._deferred is None:
            return Proceed(), outcome
        try:
            await self._commit(self._deferred, outcome, undo=self._undo_due or judged is Meaning.REFUSED)
        except Elsewhere as elsewhere:
            known = self._learn(elsewhere)
            return known, known.record if isinstance(known, Replay) else None
        except DatabaseBusy as error:
            return Refuse(error), None
        except (RequestError, OSError) as error:
            log.warning("connection lost before the outcome was certain", extra={"key": self._keyed.digest.hex()[:12]})
            return Refuse(DatabaseUnavailable(str(error))), None
        return (Proceed() if isinstance(outcome, Record) else self._not_stored()), outcome

    async def _commit(self, deferred: Deferred, outcome: Outcome, *, undo: bool) -> None:
        if undo:
            try:
                await deferred.undo_effect()
            except BaseException:
                await deferred.rollback()
                raise
        if isinstance(outcome, Record):
            await deferred.commit(outcome.status, encode(outcome))
        else:
            await deferred.commit(None, None)
        self._committed = True

    def _outcome(self, answer: Answer) -> Outcome:
        original_ms = int(self._service.clock.wall() * 1000)
        if answer.body is None:
            return Unstored(original_ms=original_ms, actor=self._keyed.actor)
        headers = storable_headers(answer.headers, self._route.stored_headers)
        return Record(
            status=answer.status,
            headers=headers,
            body=answer.body,
            original_ms=original_ms,
            entity=entity_of(headers, answer.body),
            actor=self._keyed.actor,
        )

    def _not_stored(self) -> Proceed:
        self._service.counts.not_storable += 1
        return Proceed(stored=False)

    async def _give_back(self, outcome: Outcome | None) -> bool:
        """Finish or release the claim in the store, then let the process's own duplicates go; say whether it is kept."""
        service, key, fence = self._service, self._keyed.store_key, self._running.fence
        kept = False
        try:
            if fence is not None and outcome is None:
                await service.store.release(key, fence)
            elif fence is not None and outcome is not None:
                ttl_s = self._known_ttl_s or self._route.ttl_s
                record = encode(outcome)
                kept = await service.store.finish(key, fence, record, ttl_ms=max(1, int(ttl_s * 1000)))
                service.counts.lost_claims += not kept
                service.counts.records += kept
                service.counts.record_bytes += len(record) if kept else 0
        except StoreUnavailable:
            # With Postgres the copy is only faster. Without it the caller says `Idempotency-Stored: false`.
            service.counts.errors += 1
        finally:
            service.ledger.leave(self._keyed, self._running, outcome)
        return kept

    def _plan_renewal(self) -> None:
        if self._running.fence is not None:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(self._route.lease_s / 3, self._start_renewal)

    def _start_renewal(self) -> None:
        self._service.spawn(self._renew(), name="b1-idempotency-renew")

    async def _renew(self) -> None:
        service, fence = self._service, self._running.fence
        if fence is None or self._is_settling:
            return
        try:
            if not await service.store.renew(self._keyed.store_key, fence, lease_ms=int(self._route.lease_s * 1000)):
                service.counts.lost_claims += 1
                return
        except StoreUnavailable:
            service.counts.errors += 1
        if not self._is_settling:
            self._plan_renewal()

    def _stop_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None


class Block:
    """``async with attempt.transaction() as tx``."""

    __slots__ = ("_attempt", "_savepoint")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._savepoint: Savepoint | None = None

    async def __aenter__(self) -> Transaction:
        self._savepoint = await self._attempt.enter_transaction()
        return self._attempt.open_transaction

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._attempt.leave_transaction(self._savepoint, error)
