"""The right to use one connection for a while: queries, transactions, and the rule that nobody holds two.

A lease never lets cancellation reach asyncpg (`running.py`). When its caller is cancelled or out of time in mid-query,
the lease is over at once and the pool sees the query off; the lease's other methods then raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from b1.clock import DEADLINE, Clock
from b1.db.committing import OnCommit, call_all
from b1.db.failures import as_ours
from b1.db.options import Priority
from b1.db.reach import Reach
from b1.db.running import Running
from b1.db.statements import Statement, Statements
from b1.errors import ConfigurationError, DatabaseUnavailable, DeadlineExceeded, LeaseHeld

if TYPE_CHECKING:
    import asyncpg

    from b1.db.session import RawConnection, Session

T = TypeVar("T")
Isolation = Literal["read_committed", "repeatable_read", "serializable"]

_HELD: ContextVar[Lease | None] = ContextVar("b1_lease", default=None)
# A session setting made by `execute` would stay with the connection; these statuses tell.
_STATUS_OF_SETTINGS = frozenset({"SET", "LISTEN"})


def held_lease() -> Lease | None:
    """Return the open lease of this task, or of the task that started it inside a lease's block."""
    lease = _HELD.get()
    return lease if lease is not None and lease.is_open else None


def holds_lease() -> bool:
    """Tell whether this task holds a lease, and therefore may not wait for what another lease could block."""
    return held_lease() is not None


class Keeper(Protocol):
    """What a lease needs from the pool that gave it."""

    clock: Clock
    answer_limit_s: float
    statement_timeout_s: float
    statements: Statements
    reach: Reach
    loop: asyncio.AbstractEventLoop

    def take_back(self, lease: Lease, session: Session) -> None: ...

    def see_off(self, lease: Lease, session: Session, running: Running[Any]) -> None: ...


class Lease:
    """One connection, until the block ends. Made by `Database.acquire`.

    Attributes:
        priority: the class it was acquired in.
        since_s: when, on the monotonic clock.
        asked_s: when its present query, or its last one, was sent.
        needs_reset: the session was changed in a way that the next user must not see.
    """

    __slots__ = (
        "_callbacks", "_depth", "_expires_s", "_for_request", "_keeper", "_pid", "_raw", "_running", "_session",
        "_statement", "_task", "asked_s", "needs_reset", "priority", "since_s", "until_s",
    )  # fmt: skip

    def __init__(self, keeper: Keeper, session: Session, priority: Priority, expires_s: float | None = None) -> None:
        self._keeper = keeper
        self._session: Session | None = session
        self._raw: RawConnection = session.raw
        self._pid = session.pid
        self._task = asyncio.current_task()
        self._running: Running[Any] | None = None
        self._statement: Statement | None = None
        self._depth = 0
        self._callbacks: list[OnCommit] = []
        self._expires_s = expires_s
        self._for_request = False
        self.priority: Priority = priority
        self.since_s = self.asked_s = keeper.clock.monotonic()
        self.until_s = 0.0
        self.needs_reset = False
        _HELD.set(self)

    def __repr__(self) -> str:
        state = "open" if self.is_open else "over"
        return f"<Lease pid={self._pid} {self.priority} {state} holder={self.holder!r} held_s={self.held_s:.3f}>"

    @property
    def is_open(self) -> bool:
        return self._session is not None

    @property
    def is_asking(self) -> bool:
        """Whether a query waits for its answer."""
        return self._running is not None

    @property
    def pid(self) -> int:
        """The process id of the backend."""
        return self._pid

    @property
    def held_s(self) -> float:
        """Seconds since it was given."""
        return self._keeper.clock.monotonic() - self.since_s

    @property
    def holder(self) -> str:
        """The name of the task that acquired it."""
        return self._task.get_name() if self._task is not None else "?"

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run `query` and return its rows.

        Raises:
            DatabaseUnavailable: the connection broke, or the server does not answer.
            DeadlineExceeded: the request's time ended first, and the lease is over; or the statement is known to take
                longer than what is left of it, was not sent, and the lease goes on.
            asyncpg.PostgresError: what the server says about the statement, untouched.
        """
        return await self._run(self._usable(query).fetch(query, *args))

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run `query` and return its first row, or None. Raises as `fetch`."""
        return await self._run(self._usable(query).fetchrow(query, *args))

    async def fetchval(self, query: str, *args: Any, column: int = 0) -> Any:
        """Run `query` and return one value of its first row, or None. Raises as `fetch`."""
        return await self._run(self._usable(query).fetchval(query, *args, column=column))

    async def execute(self, query: str, *args: Any) -> str:
        """Run `query`, several statements if there are no `args`; return the status of the last. Raises as `fetch`."""
        status = await self._run(self._usable(query).execute(query, *args))
        if status in _STATUS_OF_SETTINGS and not query.lstrip()[:10].upper().startswith("SET LOCAL"):
            self.needs_reset = True
        return status

    async def execute_as(self, query: str, like: str) -> str:
        """Run `query`, whose text holds its values, and account for it as `like`; return its status. Raises as `fetch`."""
        return await self._run(self._usable(like).execute(query))

    async def executemany(self, query: str, args: Iterable[Sequence[Any]]) -> None:
        """Run `query` once per element of `args`, all or nothing. Raises as `fetch`."""
        await self._run(self._usable(query).executemany(query, args), is_typical=False)

    def transaction(self, *, isolation: Isolation | None = None, readonly: bool = False) -> Transaction:
        """Return a block that commits at its end and rolls back on an error; inside another one, a savepoint.

        Args:
            isolation: the server's default when None; of the outermost block alone.
            readonly: refuse writes; of the outermost block alone.
        """
        words = ["BEGIN"]
        if isolation is not None:
            words.append(f"ISOLATION LEVEL {isolation.replace('_', ' ').upper()}")
        if readonly:
            words.append("READ ONLY")
        return Transaction(self, " ".join(words))

    def on_commit(self, callback: OnCommit) -> None:
        """Call `callback` once the present transaction is committed; an error in it is logged and changes nothing.

        Raises:
            ConfigurationError: there is no transaction.
        """
        if not self._depth:
            raise ConfigurationError("there is no transaction here", remedy="call on_commit inside lease.transaction()")
        self._callbacks.append(callback)

    def end(self) -> None:
        """Give the connection back; harmless when the lease is over. Does not wait."""
        session, self._session = self._session, None
        self._task = None
        if session is None:
            return
        if _HELD.get() is self:
            _HELD.set(None)
        running = self._running
        if running is None or not running.is_unfinished:
            self._keeper.take_back(self, session)
            return
        # Another task, started inside the block, is still in mid-query.
        running.interrupt(LeaseHeld("the lease ended while another task used it"))
        self._keeper.see_off(self, session, running)

    def stop_when_overdue(self, now_s: float) -> None:
        """End the present query's wait when its time is over; called by the pool's tick."""
        running = self._running
        if running is None or now_s < self.until_s:
            return
        if self._for_request:
            running.interrupt(DeadlineExceeded("the request's time ended while the database worked for it"))
        else:
            limit_s = self._keeper.answer_limit_s
            running.interrupt(DatabaseUnavailable(f"the database did not answer within {limit_s:g} s"))

    async def _begin(self, words: str) -> None:
        """Begin a transaction; the server ends its statements when the request's time ends before the usual limit.

        Our own end of the query (`stop_when_overdue`) needs a turn of the loop and a sibling; the server needs neither.
        """
        raw = self._usable("BEGIN")
        left_s = self.until_s - self.asked_s
        if self._for_request and left_s < self._keeper.statement_timeout_s:
            words = f"{words}; SET LOCAL statement_timeout = {max(1, round(left_s * 1000))}"
        await self._run(raw.execute(words))

    def _usable(self, query: str) -> RawConnection:
        if self._session is None:
            raise LeaseHeld("this lease is over: acquire a new one")
        if self._running is not None:
            raise LeaseHeld("this lease runs another query: one task at a time may use it")
        keeper = self._keeper
        statement = self._statement = keeper.statements.find(query)
        self.asked_s = now_s = keeper.clock.monotonic()
        self.until_s = now_s + keeper.answer_limit_s
        self._for_request = False
        deadline_s = DEADLINE.get()
        if self._expires_s is not None and (deadline_s is None or self._expires_s < deadline_s):
            deadline_s = self._expires_s
        if deadline_s is not None and deadline_s < self.until_s:
            if deadline_s <= now_s:
                raise DeadlineExceeded("the request's time ended before the database was asked")
            if not keeper.statements.may_begin(statement, deadline_s - now_s, now_s):
                raise DeadlineExceeded("the statement usually takes longer than what is left of the request's time")
            self.until_s = deadline_s
            self._for_request = True
        return self._raw

    async def _run(self, query: Coroutine[Any, Any, T], *, is_typical: bool = True) -> T:
        keeper = self._keeper
        running = Running(query, keeper.loop)
        self._running = running
        try:
            answer = await running
        except BaseException as error:
            self._note_failure(running, error)
            if not running.is_unfinished and (gone := as_ours(error, self._raw)) is not None:
                raise gone from error
            raise
        else:
            keeper.reach.answered_s = now_s = keeper.clock.monotonic()
            statement = self._statement
            assert statement is not None
            if is_typical:
                rows = len(answer) if answer.__class__ is list else 0  # type: ignore[arg-type]
                keeper.statements.record(statement, now_s - self.asked_s, now_s, rows)
            else:
                keeper.statements.record_unlike(statement, now_s - self.asked_s, now_s)
            return answer
        finally:
            self._running = None
            if running.is_unfinished:
                self._abandon(running)

    def _note_failure(self, running: Running[Any], error: BaseException) -> None:
        keeper = self._keeper
        now_s = keeper.clock.monotonic()
        statement = self._statement
        assert statement is not None
        if running.is_unfinished:
            keeper.statements.record_abandoned(statement, now_s - self.asked_s, now_s)
            return
        keeper.statements.record_unlike(statement, now_s - self.asked_s, now_s)
        if getattr(error, "severity", None) == "ERROR":  # said by the server, which goes on; asyncpg's own have none
            keeper.reach.answered_s = now_s

    def _abandon(self, running: Running[Any]) -> None:
        session, self._session = self._session, None
        if session is not None:  # else the block has ended, and `end` has seen to it
            self._keeper.see_off(self, session, running)


class Transaction:
    """A transaction or, inside one, a savepoint. Made by `Lease.transaction`."""

    __slots__ = ("_begin", "_callbacks_before", "_lease", "_savepoint")

    def __init__(self, lease: Lease, begin: str) -> None:
        self._lease = lease
        self._begin = begin
        self._savepoint = ""

    async def __aenter__(self) -> Lease:
        lease = self._lease
        if lease._depth:
            self._savepoint = f"b1_{lease._depth}"
            await lease.execute(f"SAVEPOINT {self._savepoint}")
        else:
            await lease._begin(self._begin)
        self._callbacks_before = len(lease._callbacks)
        lease._depth += 1
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        lease = self._lease
        lease._depth -= 1
        if error is None:
            await self._commit()
        elif lease.is_open and not isinstance(error, GeneratorExit):  # that one may not await; the pool rolls back
            await self._roll_back()

    async def _commit(self) -> None:
        import asyncpg

        if self._savepoint:
            await self._lease.execute(f"RELEASE SAVEPOINT {self._savepoint}")
        elif await self._lease.execute("COMMIT") != "COMMIT":
            # Postgres answers ROLLBACK, and no error, when a statement failed and its error was swallowed.
            raise asyncpg.InFailedSQLTransactionError("nothing was committed: a statement of the transaction failed")
        else:
            callbacks, self._lease._callbacks = self._lease._callbacks, []
            await call_all(callbacks)

    async def _roll_back(self) -> None:
        del self._lease._callbacks[self._callbacks_before :]
        undo = f"ROLLBACK TO {self._savepoint}; RELEASE {self._savepoint}" if self._savepoint else "ROLLBACK"
        try:
            await self._lease.execute(undo)
        except (DatabaseUnavailable, DeadlineExceeded):
            pass  # the error that brought us here says more, and the connection is lost or in the pool's hands
