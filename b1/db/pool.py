"""Who gets a connection next: callers by class, our own errands, another process, or the idle list.

Guards the queue, the leases and the idle list; every change happens between two awaits. A timer looks after deadlines,
other processes' wishes and idle connections; it stands still while nothing is held or wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from b1.clock import Clock
from b1.db.counters import Counters
from b1.db.ending import PATIENCE_S, see_off
from b1.db.fleet import Fleet
from b1.db.lease import Lease
from b1.db.options import DatabaseOptions, Priority
from b1.db.running import Running
from b1.db.session import Session, failures
from b1.db.waiting import Class, Waiter, WaitQueue
from b1.errors import B1Error, DatabaseBusy, DatabaseUnavailable, NotRunning
from b1.slots import Slot, Slots

# How often to look around. Waking an idle process costs more than looking, on a small virtual machine most of all.
_TICK_WANTING_S = 0.01
_TICK_BUSY_S = 0.02
_TICK_SPARE_S = 0.04  # holders of more than one yield within 50 ms
_TICK_SOLE_S = 0.1  # a sole holder yields after a quantum of 250 ms
_RESET = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL"


class Pool:
    """The machinery behind `Database`, which reads its attributes; nobody else writes them."""

    def __init__(self, options: DatabaseOptions, clock: Clock) -> None:
        self.clock = clock
        self.answer_limit_s = options.statement_timeout_s + options.answer_grace_s
        self.counters = Counters()
        self.leases: set[Lease] = set()
        self.idle: list[Session] = []
        self.queue = WaitQueue(
            options.queue_limit,
            background_wait_s=options.background_wait_s,
            background_quantum_s=options.background_quantum_s,
        )
        self.fleet = Fleet(
            options,
            clock,
            self.counters,
            self.borrow,
            on_free=self._welcome,
            on_change=self.pump,
            on_away=lambda: self._fail_waiters(self._away_error),
        )
        self.is_running = False
        self.loop: asyncio.AbstractEventLoop
        self._idle_lifetime_s = options.idle_lifetime_s
        # Background work has one place on the whole host, whatever process it runs in.
        self._background = Slots(options.slots_dir, "pg-background", 1)
        self._background_slot: Slot | None = None
        self._leaving = 0  # sessions whose abandoned query has not ended: they can help nobody
        self._timer: asyncio.TimerHandle | None = None
        self._interval_s = 0.0

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve, and connect once so that it is known whether the server answers."""
        if self.is_running:
            return
        self.loop = asyncio.get_running_loop()
        self._background.open()
        self.fleet.start()
        self.is_running = True
        self.pump()

    async def aclose(self, deadline_s: float) -> None:
        """Refuse new callers, wait for leases, close everything; after `deadline_s` without a word."""
        self.is_running = False
        self._fail_waiters(lambda: NotRunning("the database is being closed"))
        while self.idle:
            self.fleet.retire(self.idle.pop())
        try:
            await self.fleet.aclose(deadline_s)
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._background.close()

    # --- callers ----------------------------------------------------------------------------------------------------

    def check_serving(self) -> None:
        """Raise what a caller has to hear before it waits."""
        if not self.is_running:
            raise NotRunning("the database serves only between start() and aclose()")
        if self.fleet.reach.is_away:
            raise self._away_error()

    def try_take(self, priority: Priority) -> Session | None:
        """Return a session if one is free and nobody has an older claim."""
        if not self.idle or self.fleet.reach.is_away or not self.is_running:
            return None
        if priority == "background":
            if len(self.queue) or not self._take_background():
                return None
        elif self.queue.has_urgent:
            return None
        session = self.idle.pop()
        if session.is_closed:  # asyncpg's notice is still on its way through the loop
            self.fleet.lose(session)
            self._free_background(priority)
            return None
        return session

    async def wait(self, priority: Class, timeout_s: float) -> Session:
        """Wait in line for a session.

        Raises:
            DatabaseBusy: the queue is full, or the time is over.
            DatabaseUnavailable: the server went away.
            NotRunning: the database is being closed.
        """
        started_s = self.clock.monotonic()
        waiter = Waiter(self.loop.create_future(), priority, started_s, started_s + timeout_s)
        try:
            self.queue.add(waiter)
        except DatabaseBusy:
            self.counters.refused += 1
            raise
        self._serve_idle()
        self.pump()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self.queue.remove(waiter)
            if not waiter.future.cancelled() and waiter.future.exception() is None:
                self._free_background(priority)
                self.offer(waiter.future.result())  # it came in the same moment
            raise
        finally:
            if priority != "errand":
                self.counters.wait_s += self.clock.monotonic() - started_s

    def note_lease(self, lease: Lease) -> None:
        """Hear that a session was leased, and look after the lease from now on."""
        self.counters.acquired += 1
        self.leases.add(lease)
        if self._interval_s > _TICK_BUSY_S:
            self._wake_within(_TICK_BUSY_S)

    def take_back(self, lease: Lease, session: Session) -> None:
        """Receive the session of a lease that ended."""
        self.leases.discard(lease)
        self._free_background(lease.priority)
        if session.is_closed or not (lease.needs_reset or session.raw.is_in_transaction()):
            self.offer(session)
        else:
            self.fleet.spawn(self._restore(session, with_settings=lease.needs_reset))

    def see_off(self, lease: Lease, session: Session, running: Running[Any]) -> None:
        """Receive the session of a lease that was abandoned in mid-query."""
        self.leases.discard(lease)
        self._free_background(lease.priority)
        self.counters.cancels += 1
        self.fleet.spawn(self._see_off(session, running, with_settings=lease.needs_reset))

    # --- free sessions ----------------------------------------------------------------------------------------------

    def offer(self, session: Session) -> None:
        """Give an unused session to whoever is next."""
        if session.is_closed:
            self.fleet.lose(session)
        elif not self.is_running:
            self.fleet.retire(session)
        elif self.fleet.must_yield:
            self.fleet.retire(session, yielded=True)
        elif not self._serve(session):
            session.idle_since_s = self.clock.monotonic()
            self.idle.append(session)

    @asynccontextmanager
    async def borrow(self, wait_s: float) -> AsyncIterator[Session | None]:
        """Lend a session for an errand of our own, ahead of every caller; None when none comes free in time."""
        session = await self._free_session(wait_s)
        try:
            yield session
        finally:
            if session is not None:
                self.offer(session)

    def suspect(self) -> None:
        """Hear that neither a query nor its cancellation was answered."""
        self.fleet.suspect()

    async def _free_session(self, wait_s: float) -> Session | None:
        if self.idle:
            return self.idle.pop()
        if len(self.fleet.sessions) <= self._leaving or not self.is_running:
            return None
        try:
            return await self.wait("errand", wait_s)
        except (DatabaseBusy, DatabaseUnavailable, NotRunning):
            return None

    def _welcome(self, session: Session) -> None:
        session.raw.add_termination_listener(self._terminated)
        self.offer(session)

    def _terminated(self, raw: object) -> None:
        for session in self.idle:
            if session.raw is raw:
                self.idle.remove(session)
                self.fleet.lose(session)
                return

    def _serve(self, session: Session) -> bool:
        while (waiter := self.queue.next(self.clock.monotonic(), self._take_background)) is not None:
            if not waiter.future.done():
                waiter.future.set_result(session)
                return True
            self._free_background(waiter.priority)
        return False

    def _serve_idle(self) -> None:
        while self.idle and self._serve(self.idle[-1]):
            self.idle.pop()

    async def _see_off(self, session: Session, running: Running[Any], *, with_settings: bool) -> None:
        self._leaving += 1
        try:
            await see_off(self, session, running)
        except BaseException:
            session.raw.terminate()
            raise
        finally:
            self._leaving -= 1
            if session.is_closed:
                self.fleet.lose(session)
        if not session.is_closed:
            self.fleet.trust()
            await self._restore(session, with_settings=with_settings)

    async def _restore(self, session: Session, *, with_settings: bool) -> None:
        words = ["ROLLBACK"] if session.raw.is_in_transaction() else []
        words += [_RESET] if with_settings else []
        await self._run_and_offer(session, "; ".join(words))

    async def _run_and_offer(self, session: Session, sql: str) -> None:
        try:
            if sql:
                async with asyncio.timeout(PATIENCE_S):
                    await session.execute(sql)
                self.fleet.trust()
        except failures():
            session.raw.terminate()
        finally:
            self.offer(session)

    def _take_background(self) -> bool:
        if self._background_slot is None:
            self._background_slot = self._background.take()
            return self._background_slot is not None
        return False

    def _free_background(self, priority: Class) -> None:
        if priority == "background" and self._background_slot is not None:
            self._background_slot.free()
            self._background_slot = None

    def _fail_waiters(self, error: Callable[[], B1Error]) -> None:
        for waiter in self.queue.drain():
            if not waiter.future.done():
                waiter.future.set_exception(error())

    def _away_error(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"the database does not answer ({self.fleet.reach.reason})", retry_after=1.0)

    # --- time -------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Ask for connections that callers need, and see that the timer runs as often as things stand."""
        wanted = self._wanted() if self.is_running else 0
        self.fleet.grow(wanted)
        if wanted > 0:
            self._wake_within(_TICK_WANTING_S)
        elif self.leases or len(self.queue) or self._leaving:
            self._wake_within(_TICK_BUSY_S)
        elif self.fleet.holds_anything:
            self._wake_within(_TICK_SPARE_S if self.fleet.kept > 1 else _TICK_SOLE_S)

    def _wake_within(self, interval_s: float) -> None:
        if self._timer is not None:
            if interval_s >= self._interval_s:
                return
            self._timer.cancel()
        self._interval_s = interval_s
        self._timer = self.loop.call_later(interval_s, self._tick)

    def _wanted(self) -> int:
        if self.fleet.must_probe:
            return 1 - self.fleet.opening
        return self.queue.demand(background_busy=self._background_slot is not None) - self.fleet.opening

    def _tick(self) -> None:
        self._timer = None
        now_s = self.clock.monotonic()
        for waiter in self.queue.expired(now_s):
            if not waiter.future.done():
                self.counters.timeouts += waiter.priority != "errand"
                waiter.future.set_exception(DatabaseBusy("no database connection came free in time"))
        for lease in list(self.leases):
            lease.stop_when_overdue(now_s)
        self.fleet.look_around()
        self._tend_idle(now_s)
        self._serve_idle()
        self.pump()

    def _tend_idle(self, now_s: float) -> None:
        if not self.idle:
            return
        if self.fleet.reach.is_away and not self._leaving:
            # Nobody gets these while the server is in doubt, and a slot for a new connection may never come free.
            self.fleet.spawn(self._run_and_offer(self.idle.pop(), "SELECT 1"))
        elif self.fleet.must_yield:
            self.fleet.retire(self.idle.pop(0), yielded=True)
        elif now_s - self.idle[0].idle_since_s >= self._idle_lifetime_s:
            self.fleet.retire(self.idle.pop(0))
