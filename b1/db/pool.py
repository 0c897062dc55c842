"""Who gets a connection next: callers by class, our own errands, another process, or the idle list.

Guards the queue, the leases and the idle list; every change happens between two awaits. A timer looks after deadlines,
other processes' wishes and idle connections; it stands still while nothing is held or wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from b1.clock import Clock
from b1.db.background import BackgroundPlace
from b1.db.counters import Counters
from b1.db.errands import Errands
from b1.db.fleet import Fleet
from b1.db.lease import Lease
from b1.db.load import Load
from b1.db.options import DatabaseOptions, Priority
from b1.db.running import Running
from b1.db.session import Session
from b1.db.silence import SilenceWatch
from b1.db.statements import Statements
from b1.db.waiting import Class, Waiter, WaitQueue
from b1.errors import B1Error, DatabaseBusy, DatabaseUnavailable, NotRunning

# How often to look around. Waking an idle process costs more than looking, on a small virtual machine most of all.
_TICK_WANTING_S = 0.01
_TICK_BUSY_S = 0.02
_TICK_SPARE_S = 0.04  # holders of more than one yield within 50 ms
_TICK_SOLE_S = 0.1  # a sole holder yields after a quantum of 250 ms
# What a refused caller is told to wait: the queue's expected length, within these bounds.
_RETRY_AFTER_S = (1.0, 30.0)


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
        self.errands = Errands(self)
        self.fleet = Fleet(
            options,
            clock,
            self.counters,
            self.errands.borrow,
            on_free=self._welcome,
            on_change=self.pump,
            on_away=lambda: self._fail_waiters(self._away_error),
        )
        self.reach = self.fleet.reach
        self.load = Load(options.connections)
        self.statements = Statements(
            limit=options.statements_kept,
            slow_s=options.slow_query_s,
            slow_per_minute=options.slow_queries_per_minute,
        )
        self.statement_timeout_s = options.statement_timeout_s
        self._background_wait_s = options.background_wait_s
        self.is_running = False
        self.loop: asyncio.AbstractEventLoop
        self._silence = SilenceWatch(self, options.silence_s)
        self._idle_lifetime_s = options.idle_lifetime_s
        self._background = BackgroundPlace(options.slots_dir)
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

    def try_take(self, priority: Priority, tenant: str | None) -> Session | None:
        """Return a session if one is free and nobody has an older claim."""
        if not self.idle or self.fleet.reach.is_away or not self.is_running:
            return None
        if priority == "background":
            if len(self.queue) or not self._background.take():
                return None
        elif self.queue.has_urgent:
            return None
        session = self.idle.pop()
        if session.is_closed:  # asyncpg's notice is still on its way through the loop
            self.fleet.lose(session)
            self._free_background(priority)
            return None
        session.account = self.queue.begin(priority, tenant)
        return session

    def expected_wait_s(self, priority: Class, tenant: str | None) -> float:
        """Return what a new caller would wait, by the queue and the mean service; 0 for whoever would be next, or unknown.

        Whoever is next waits for the first of several connections, of which nothing can be foretold.
        """
        wait_s = self.load.wait_behind_s(self.queue.ahead_of(priority, tenant), self.fleet.kept)
        return min(wait_s, self._background_wait_s) if priority == "background" else wait_s

    def longest_wait_s(self) -> float:
        """Return what whoever is last in the queue would wait: never less than `expected_wait_s`, and cheap."""
        return self.load.wait_behind_s(len(self.queue), self.fleet.kept)

    async def wait(self, priority: Class, timeout_s: float, tenant: str | None = None) -> Session:
        """Wait in line for a session.

        Raises:
            DatabaseBusy: the queue is full, or the time is over or would be.
            DatabaseUnavailable: the server went away.
            NotRunning: the database is being closed.
        """
        started_s = self.clock.monotonic()
        waiter = Waiter(self.loop.create_future(), priority, started_s, started_s + timeout_s, tenant)
        self._line_up(waiter)
        if self.idle:
            self._serve_idle()
        if self.fleet.is_full:
            self._wake_within(_TICK_WANTING_S)
        else:
            self.pump()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self.queue.remove(waiter)
            if not waiter.future.cancelled() and waiter.future.exception() is None:
                self._free_background(priority)
                self._repay(waiter)
                self.offer(waiter.future.result())  # it came in the same moment
            raise
        finally:
            if priority != "errand":
                waited_s = self.clock.monotonic() - started_s
                self.counters.wait_s += waited_s
                self.load.waited(waited_s)

    def refuse_hopeless(self, why: str) -> DatabaseBusy:
        """Count a caller whose time would be over before its turn, and return what it gets."""
        self.counters.hopeless += 1
        return self._busy(why)

    def note_lease(self, lease: Lease) -> None:
        """Hear that a session was leased, and look after the lease from now on."""
        self.counters.acquired += 1
        self.leases.add(lease)
        if self._interval_s > _TICK_BUSY_S:
            self._wake_within(_TICK_BUSY_S)

    def take_back(self, lease: Lease, session: Session) -> None:
        """Receive the session of a lease that ended."""
        self._settle(lease, session)
        if session.is_closed or not (lease.needs_reset or session.raw.is_in_transaction()):
            self.offer(session)
        else:
            self.errands.clean(session, with_settings=lease.needs_reset)

    def see_off(self, lease: Lease, session: Session, running: Running[Any]) -> None:
        """Receive the session of a lease that was abandoned in mid-query."""
        self._settle(lease, session)
        self.counters.cancels += 1
        self.errands.see_off(session, running, asked_s=lease.asked_s, with_settings=lease.needs_reset)

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
        now_s = self.clock.monotonic()
        while (waiter := self.queue.next(now_s, self._background.take)) is not None:
            if not waiter.future.done() and now_s < waiter.deadline_s:
                session.account = waiter.account
                waiter.future.set_result(session)
                return True
            self._free_background(waiter.priority)
            self._repay(waiter)
            self._expire(waiter)
        return False

    def _line_up(self, waiter: Waiter) -> None:
        try:
            pushed_out = self.queue.add(waiter)
        except DatabaseBusy as full:
            self.counters.refused += 1
            raise self._busy(str(full)) from None
        if pushed_out is not None and not pushed_out.future.done():
            self.counters.refused += 1
            pushed_out.future.set_exception(self._busy("others who wait less needed this place in the queue"))

    def _busy(self, why: str) -> DatabaseBusy:
        least_s, most_s = _RETRY_AFTER_S
        drained_s = len(self.queue) * self.load.service_s / max(1, self.fleet.kept)
        return DatabaseBusy(why, retry_after=min(most_s, max(least_s, drained_s)))

    def _expire(self, waiter: Waiter) -> None:
        if not waiter.future.done():
            self.counters.timeouts += waiter.priority != "errand"
            waiter.future.set_exception(self._busy("no database connection came free in time"))

    def _settle(self, lease: Lease, session: Session) -> None:
        """Close the accounts of a lease that ended."""
        self.leases.discard(lease)
        self._free_background(lease.priority)
        held_s = self.clock.monotonic() - lease.since_s
        self.load.served(held_s)
        if session.account is not None:
            session.account.end(held_s)
            session.account = None

    def _repay(self, waiter: Waiter) -> None:
        """Take back what was charged for a connection that nobody got."""
        if waiter.account is not None:
            waiter.account.end(0.0)

    def _serve_idle(self) -> None:
        while self.idle and self._serve(self.idle[-1]):
            self.idle.pop()

    def _free_background(self, priority: Class) -> None:
        if priority == "background":
            self._background.free()

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
        elif self.leases or len(self.queue) or self.errands.leaving:
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
        return self.queue.demand(background_busy=self._background.is_taken) - self.fleet.opening

    def _tick(self) -> None:
        self._timer = None
        now_s = self.clock.monotonic()
        for waiter in self.queue.expired(now_s):
            self._expire(waiter)
        self._silence.look()
        for lease in list(self.leases):
            lease.stop_when_overdue(now_s)
        if self.load.is_due(now_s):
            self.sample_load(now_s)
        self.fleet.look_around()
        self._tend_idle(now_s)
        self._serve_idle()
        self.pump()

    def sample_load(self, now_s: float) -> None:
        """Bring the load's numbers up to date."""
        open_s = sum(now_s - lease.since_s for lease in self.leases)
        self.load.sample(now_s, open_s=open_s, at_once=self.counters.acquired - self.counters.waited)

    def _tend_idle(self, now_s: float) -> None:
        if not self.idle:
            return
        if self.fleet.reach.is_away and not self.errands.leaving:
            # Nobody gets these while the server is in doubt, and a slot for a new connection may never come free.
            self.errands.ping(self.idle.pop())
        elif self.fleet.must_yield:
            self.fleet.retire(self.idle.pop(0), yielded=True)
        elif now_s - self.idle[0].idle_since_s >= self._idle_lifetime_s:
            self.fleet.retire(self.idle.pop(0))
