"""The database as the rest of b1 sees it: leases, one-query shortcuts and numbers. The work is done in `pool.py`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from b1.clock import Clock, SystemClock, remaining
from b1.db.counters import DatabaseSnapshot, Holder
from b1.db.lease import Lease, held_lease
from b1.db.options import DatabaseOptions, Priority
from b1.db.pool import Pool
from b1.db.priority import usual_priority
from b1.errors import DatabaseBusy, LeaseHeld

if TYPE_CHECKING:
    import asyncpg


class Database:
    """Postgres within the host's budget of connections.

    Args:
        options: see `DatabaseOptions`.
        clock: for deadlines and durations.
    """

    def __init__(self, options: DatabaseOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock: Clock = clock or SystemClock()
        self._pool = Pool(options, self._clock)

    def __repr__(self) -> str:
        now = self.snapshot()
        state = "away" if now.away_since is not None else "connected" if now.connected else "unconnected"
        return (
            f"<Database {state} in_use={now.in_use} idle={now.idle} opening={now.opening} limit={now.limit} "
            f"waiting={now.waiting}>"
        )

    async def start(self) -> None:
        """Begin to serve. Never waits for Postgres, and never fails because it is away.

        Raises:
            ConfigurationError: the slot folder cannot be used.
        """
        import asyncpg  # noqa: F401 - its weight is paid here, not in the first request

        self._pool.start()

    async def aclose(self, *, deadline_s: float = 5.0) -> None:
        """Refuse new callers, wait for open leases up to `deadline_s`, and close every connection."""
        if self._pool.is_running:
            await self._pool.aclose(deadline_s)

    @property
    def is_saturated(self) -> bool:
        """Whether callers wait long or the connections are nearly always busy (`b1.db.load`), as of the last second.

        Costs an attribute. Whoever can answer without the database, such as a cache with a stale value, should then do so.
        """
        return self._pool.load.is_saturated

    def acquire(
        self, *, priority: Priority | None = None, timeout_s: float | None = None, tenant: str | None = None
    ) -> Acquisition:
        """Return a block that holds a lease: ``async with db.acquire() as lease:``.

        Args:
            priority: ``critical`` goes first, then ``web``; ``background`` has one place on the host, gives way to
                the others, and gets its turn after 5 s at the latest. None: ``web``, but ``background`` in an
                `in_background` block.
            timeout_s: the longest wait; the option's `acquire_timeout_s` when None. The request's own deadline
                (`b1.clock.DEADLINE`) applies in any case.
            tenant: for whom the work is done; what the option's `tenant_of` says when None. Tenants of one class share
                the connections fairly, and one may hold half of the queue while others wait too.

        Raises:
            DatabaseBusy: on entry, when the queue is full or the time is over; at once when the time would be over
                before the caller's turn, as far as the queue foretells it.
            DatabaseUnavailable: on entry, at once, while Postgres is known to be away.
            LeaseHeld: on entry, at once, when this task holds a lease already.
            NotRunning: on entry, before `start` and after `aclose`.
        """
        return Acquisition(self._pool, self._options, priority, timeout_s, tenant)

    async def fetch(
        self,
        query: str,
        *args: Any,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        tenant: str | None = None,
    ) -> list[asyncpg.Record]:
        """Run one query on a lease of its own. `timeout_s` covers the wait and the query. Raises as both do."""
        async with Acquisition(self._pool, self._options, priority, timeout_s, tenant, query) as lease:
            return await lease.fetch(query, *args)

    async def fetchrow(
        self,
        query: str,
        *args: Any,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        tenant: str | None = None,
    ) -> asyncpg.Record | None:
        """Run one query on a lease of its own; return its first row. As `fetch`."""
        async with Acquisition(self._pool, self._options, priority, timeout_s, tenant, query) as lease:
            return await lease.fetchrow(query, *args)

    async def fetchval(
        self,
        query: str,
        *args: Any,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        tenant: str | None = None,
    ) -> Any:
        """Run one query on a lease of its own; return the first value of its first row. As `fetch`."""
        async with Acquisition(self._pool, self._options, priority, timeout_s, tenant, query) as lease:
            return await lease.fetchval(query, *args)

    async def execute(
        self,
        query: str,
        *args: Any,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        tenant: str | None = None,
    ) -> str:
        """Run one statement on a lease of its own; return its status. As `fetch`."""
        async with Acquisition(self._pool, self._options, priority, timeout_s, tenant, query) as lease:
            return await lease.execute(query, *args)

    def snapshot(self) -> DatabaseSnapshot:
        """Return the present numbers; no I/O."""
        pool = self._pool
        if pool.is_running and pool.load.is_due(now_s := self._clock.monotonic()):
            pool.sample_load(now_s)
        away_since_s = pool.fleet.reach.away_since_s
        return DatabaseSnapshot(
            limit=self._options.connections,
            in_use=len(pool.fleet.sessions) - len(pool.idle),
            idle=len(pool.idle),
            waiting=len(pool.queue),
            opening=pool.fleet.opening,
            resting=pool.fleet.opener.resting,
            closing=pool.fleet.closing,
            connected=bool(pool.fleet.sessions) and away_since_s is None,
            away_since=away_since_s,
            away_s=0.0 if away_since_s is None else self._clock.monotonic() - away_since_s,
            away_reason=pool.fleet.reach.reason,
            holders=tuple(
                Holder(lease.holder, lease.held_s, lease.priority)
                for lease in sorted(pool.leases, key=lambda lease: lease.since_s)
            ),
            counters=pool.counters.copy(),
            silent_s=pool.reach.silent_s,
            load=pool.load.snapshot(expected_wait_s=pool.expected_wait_s("web", None)),
            statements=pool.statements.top(self._options.statements_shown),
            slow_queries=pool.statements.slow,
        )


class Acquisition:
    """The block made by `Database.acquire`, and around each query that `Database` runs by itself.

    Args:
        pool: where the lease comes from.
        options: for the default wait and tenant.
        priority: the class.
        timeout_s: as of `Database.acquire`.
        tenant: as of `Database.acquire`.
        query: the one statement that the lease is for; `timeout_s` then covers its run too.
    """

    __slots__ = ("_lease", "_options", "_pool", "_priority", "_query", "_tenant", "_timeout_s")

    def __init__(
        self,
        pool: Pool,
        options: DatabaseOptions,
        priority: Priority | None,
        timeout_s: float | None,
        tenant: str | None,
        query: str | None = None,
    ) -> None:
        self._pool = pool
        self._options = options
        self._priority: Priority = priority or usual_priority()
        self._timeout_s = timeout_s
        self._tenant = tenant
        self._query = query

    async def __aenter__(self) -> Lease:
        if (held := held_lease()) is not None:
            raise LeaseHeld(f"this task holds a database lease of {held.holder!r} already: use that one")
        pool = self._pool
        tenant = self._tenant
        if tenant is None and (tenant_of := self._options.tenant_of) is not None:
            tenant = tenant_of()
        expires_s = None
        if self._query is not None and self._timeout_s is not None:
            expires_s = pool.clock.monotonic() + self._timeout_s
        session = pool.try_take(self._priority, tenant)
        if session is None:
            session = await pool.wait(self._priority, self._patience_s(tenant), tenant)
            pool.counters.waited += 1
        self._lease = lease = Lease(pool, session, self._priority, expires_s)
        pool.note_lease(lease)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.end()

    def _patience_s(self, tenant: str | None) -> float:
        """Return how long to wait.

        Raises:
            DatabaseBusy: no wait that is worth it would be short enough.
        """
        pool = self._pool
        pool.check_serving()
        limit_s = self._options.acquire_timeout_s if self._timeout_s is None else self._timeout_s
        patience_s = remaining(pool.clock, limit_s)
        if patience_s <= 0:
            pool.counters.timeouts += 1
            raise DatabaseBusy("no time was left to wait for a database connection")
        left_s = remaining(pool.clock, pool.answer_limit_s if self._timeout_s is None else self._timeout_s)
        if self._is_hopeless(pool.longest_wait_s(), patience_s, left_s):  # cheap, and nearly always enough
            wait_s = pool.expected_wait_s(self._priority, tenant)
            if self._is_hopeless(wait_s, patience_s, left_s):
                raise pool.refuse_hopeless(f"a connection is expected in {wait_s:.1f} s, {left_s:.1f} s are left")
        return patience_s

    def _is_hopeless(self, wait_s: float, patience_s: float, left_s: float) -> bool:
        if wait_s > patience_s:
            return True
        if self._query is None or not wait_s:
            return False
        pool = self._pool
        return pool.statements.cannot_end(self._query, left_s - wait_s, pool.clock.monotonic())
