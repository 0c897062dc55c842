"""A transaction that outlives the handler's block: opened by the handler, committed when its answer is known.

The effect and the very bytes of its answer become visible in one COMMIT. An advisory lock, which ends with the transaction,
keeps rivals out meanwhile; the record's primary key would stop one that did not ask for the lock. Leaving the block does
not commit: until the whole answer is there nobody can know whether the handler wants its effect kept. So between the end
of the block and the answer the effect can be read through this transaction only, and its connection stays taken.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from b1.db.committing import OnCommit, call_all
from b1.errors import (
    B1Error,
    DatabaseBusy,
    DatabaseUnavailable,
    DeadlineExceeded,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    LeaseHeld,
    RequestError,
)
from b1.idempotency import queries
from b1.idempotency.errors import IdempotencyOutcomeNotStored
from b1.idempotency.fingerprint import Comparison, Keyed, compare
from b1.idempotency.record import Outcome, Record, Unstored, decode

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

log = logging.getLogger("b1.idempotency")

LOCK_NOT_AVAILABLE = "55P03"
UNIQUE_VIOLATION = "23505"
_LOST_AGAINST_ANOTHER = ("40001", "40P01")  # serialization failure, deadlock
_LOOK_S = 1.0
# A larger record goes as a parameter, in a message of its own: in hexadecimal it would be twice as long.
_INLINE_BYTES = 16 * 1024


class Lease(Protocol):
    """The part of `b1.db`'s lease that is used here."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str, *args: Any) -> str: ...


class LeaseSource(Protocol):
    """The part of `b1.db.Database` that is used here."""

    def acquire(self, *, priority: Any = ..., timeout_s: float | None = ...) -> AbstractAsyncContextManager[Any]: ...


class TransactionOver(B1Error):
    """The transaction was used after its outcome was decided."""

    code = "TRANSACTION_OVER"


class Elsewhere(Exception):
    """Internal: Postgres already knows this key; `verdict` is what the request gets."""

    def __init__(self, verdict: Record | RequestError, ttl_s: float = 0.0) -> None:
        super().__init__(verdict)
        self.verdict = verdict
        self.ttl_s = ttl_s


class Transaction:
    """What the handler works with: statements run in the transaction that also holds the idempotency record."""

    def __init__(self, lease: Lease) -> None:
        self._lease: Lease | None = lease
        self._callbacks: list[OnCommit] = []
        self._savepoints = 0

    def __repr__(self) -> str:
        return f"<Transaction {'open' if self._lease is not None else 'over'} on_commit={len(self._callbacks)}>"

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]:
        """Return all rows."""
        return await self._open().fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """Return the first row, or None."""
        return await self._open().fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """Return the first column of the first row, or None."""
        return await self._open().fetchval(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement and return its command tag."""
        return await self._open().execute(query, *args)

    def savepoint(self) -> Savepoint:
        """Return a block whose statements are undone, alone, when it is left by an exception."""
        self._savepoints += 1
        return Savepoint(self, f"b1_handler_{self._savepoints}")

    def on_commit(self, callback: OnCommit) -> None:
        """Call `callback` once the effect is committed; an error in it is logged and changes nothing."""
        self._open()
        self._callbacks.append(callback)

    def _open(self) -> Lease:
        if self._lease is None:
            raise TransactionOver("this transaction is over: its answer was given, or its connection was lost")
        return self._lease

    def close(self) -> list[OnCommit]:
        """End the handler's use and return what it wants called; for the owner of the transaction."""
        self._lease = None
        callbacks, self._callbacks = self._callbacks, []
        return callbacks

    def forget_callbacks(self, keep: int) -> None:
        """Drop what was registered by a block that was undone; for the owner of the transaction."""
        del self._callbacks[keep:]

    @property
    def callbacks(self) -> int:
        """Count of callbacks registered so far."""
        return len(self._callbacks)


class Savepoint:
    """``async with tx.savepoint():`` undoes its statements when it is left by an exception, then lets that pass."""

    def __init__(self, transaction: Transaction, name: str) -> None:
        self._transaction = transaction
        self._name = name
        self._callbacks_before = 0

    async def __aenter__(self) -> Transaction:
        await self._transaction.execute(f"SAVEPOINT {self._name}")
        self._callbacks_before = self._transaction.callbacks
        return self._transaction

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._transaction.execute(f"RELEASE SAVEPOINT {self._name}")
        elif isinstance(error, Exception) and not is_lost(error):
            await self._transaction.execute(f"ROLLBACK TO SAVEPOINT {self._name}")
            self._transaction.forget_callbacks(self._callbacks_before)
        # Else the task was cancelled or the connection is gone, and the whole transaction goes with it.


class Deferred:
    """Owns the lease and the transaction from the handler's block until the answer.

    One task at a time uses it: the handler's, then, after the answer is complete, the one that settles the attempt.
    """

    def __init__(
        self, database: LeaseSource, lease: Lease, holding: AsyncExitStack, keyed: Keyed, ttl_s: float
    ) -> None:
        self._database = database
        self._lease = lease
        self._holding = holding
        self._keyed = keyed
        self._ttl_s = ttl_s
        self.transaction = Transaction(lease)

    def __repr__(self) -> str:
        return f"<Deferred {self._keyed.digest.hex()[:12]} {self.transaction!r}>"

    @classmethod
    async def open(
        cls, database: LeaseSource, keyed: Keyed, *, ttl_s: float, lock_timeout_ms: int, acquire_timeout_s: float
    ) -> Deferred:
        """Take a lease, begin, and keep rivals out.

        Raises:
            Elsewhere: the key is known: replay, refuse, or come back later.
            DatabaseBusy, DatabaseUnavailable: no connection in time, or none at all.
        """
        holding = AsyncExitStack()
        lease = await holding.enter_async_context(database.acquire(timeout_s=acquire_timeout_s))
        deferred = cls(database, lease, holding, keyed, ttl_s)
        try:
            begin = queries.begin(keyed.digest, lock_timeout_ms)
            if await deferred._send(begin, queries.BEGIN_LIKE) != queries.UNKNOWN:
                await deferred._make_way()
        except BaseException as error:
            await deferred.rollback()
            if sqlstate(error) == LOCK_NOT_AVAILABLE or sqlstate(error) in _LOST_AGAINST_ANOTHER:
                raise Elsewhere(IdempotencyInFlight()) from error
            raise
        return deferred

    async def _send(self, query: str, like: str) -> str:
        """Run a text that holds values. A lease that can account for it as `like` need not read it for that."""
        execute_as = getattr(self._lease, "execute_as", None)
        return str(await (self._lease.execute(query) if execute_as is None else execute_as(query, like)))

    async def _make_way(self) -> None:
        """Remove the key's row if its time is over; else the row is the answer (`Elsewhere`)."""
        known = await self._known()
        if known is not None:
            raise known
        await self._lease.execute(queries.DELETE_EXPIRED, self._keyed.digest)
        # From here on: undoing the effect must not bring the old row back.
        await self._lease.execute(queries.EFFECT_BEGINS)

    async def _known(self) -> Elsewhere | None:
        row = await self._lease.fetchrow(queries.READ, self._keyed.digest)
        if row is None or row["ttl_s"] <= 0:
            return None
        compared = await compare(bytes(row["fingerprint"]), self._keyed)
        if compared is Comparison.OTHER:
            return Elsewhere(IdempotencyKeyReused())
        outcome: Outcome = Unstored(original_ms=int(row["created_s"] * 1000))
        if row["record"] is not None:
            outcome = decode(row["record"])
        if isinstance(outcome, Unstored):
            return Elsewhere(IdempotencyOutcomeNotStored())
        if compared is Comparison.UNKNOWN:
            outcome = outcome._replace(is_compared=False)
        return Elsewhere(outcome, float(row["ttl_s"]))

    async def undo_effect(self) -> None:
        """Take the handler's statements back and keep the lock; what it registered for the commit is dropped.

        Raises:
            DatabaseUnavailable and its like: the connection was lost, and with it the transaction.
        """
        await self._lease.execute(queries.UNDO_EFFECT)
        self.transaction.forget_callbacks(0)

    async def commit(self, status: int | None, record: bytes | None) -> None:
        """Write the outcome and commit it with the effect; then run what the handler registered.

        Args:
            status: of the answer; None with `record` None: the effect happened and its answer is not kept.

        Raises:
            DatabaseUnavailable: the connection was lost; whether the commit happened is unknown, and a retry finds out.
            DatabaseBusy: the transaction lost against another one, nothing was committed.
            Elsewhere: another transaction has committed this key meanwhile; nothing of this one was.
            Exception: as Postgres raised it (the handler swallowed an error, say); nothing was committed.
        """
        callbacks = self.transaction.close()
        try:
            tag = await self._conclude(status, record)
            if tag != queries.COMMIT:
                raise RuntimeError(f"Postgres answered {tag} to COMMIT")
        except BaseException as error:
            await self._give_up(error)
            if sqlstate(error) in _LOST_AGAINST_ANOTHER:
                raise DatabaseBusy("the transaction lost against another one: repeat the request") from error
            if not is_lost(error):
                raise
            if not await self._is_committed(record):
                raise DatabaseUnavailable("the connection was lost: a retry with the same key finds out") from error
        await self._holding.aclose()
        await call_all(callbacks)

    async def _conclude(self, status: int | None, record: bytes | None) -> str:
        keyed = self._keyed
        values = (keyed.digest, keyed.organization, keyed.fingerprint, status, record, self._ttl_s)
        if record is None or len(record) <= _INLINE_BYTES:
            return await self._send(queries.conclude(*values), queries.CONCLUDE_LIKE)
        await self._lease.execute(queries.EFFECT_ENDS)
        await self._lease.execute(queries.INSERT, *values)
        return await self._lease.execute(queries.COMMIT)

    async def _give_up(self, error: BaseException) -> None:
        """Roll back; when a rival inserted the key first, say what it left (`Elsewhere`)."""
        if not _is_beaten(error):
            await self.rollback()
            return
        try:
            await self._lease.execute(queries.ROLLBACK)
            known = await self._known()
        finally:
            await self.rollback()
        raise (known or Elsewhere(IdempotencyInFlight())) from error

    async def _is_committed(self, record: bytes | None) -> bool:
        """Look, on another connection, whether a COMMIT whose answer was lost had arrived; False when nobody can say."""
        try:
            async with self._database.acquire(timeout_s=_LOOK_S) as lease:
                row = await lease.fetchrow(queries.READ, self._keyed.digest)
        except (RequestError, OSError):
            return False
        return row is not None and bytes(row["fingerprint"]) == self._keyed.fingerprint and row["record"] == record

    async def rollback(self) -> None:
        """Undo everything, let rivals in, and give the connection back."""
        self.transaction.close()
        try:
            await self._lease.execute(queries.ROLLBACK)
        except Exception as error:
            if not is_lost(error):
                log.warning("idempotency rollback failed", extra={"key": self._keyed.digest.hex()[:12]}, exc_info=True)
        finally:
            await self._holding.aclose()


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error of Postgres, also behind the error that wraps it."""
    seen: BaseException | None = error
    while seen is not None:
        state = getattr(seen, "sqlstate", None)
        if isinstance(state, str):
            return state
        seen = seen.__cause__
    return None


def _is_beaten(error: BaseException) -> bool:
    """Say whether another transaction inserted the key: one of b1's version before, which takes no advisory lock."""
    return sqlstate(error) == UNIQUE_VIOLATION and getattr(error, "constraint_name", None) == queries.PRIMARY_KEY


def is_lost(error: BaseException) -> bool:
    """Say whether `error` means that the lease can no longer be used: broken, abandoned in mid-query, or out of time.

    Its transaction is rolled back all the same: by the server that lost its client, or by the pool that got it back.
    """
    if isinstance(error, OSError | DatabaseUnavailable | DeadlineExceeded | LeaseHeld):
        return True
    return (sqlstate(error) or "").startswith(("08", "57P0"))
