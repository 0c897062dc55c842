"""Loads under way: one per entry and vector, owned by all who wait for it together.

A caller who gives up takes nobody's load away; when the last one has gone the load is cancelled, unless it began for
nobody. Entry and vector together name a load: who comes after an invalidation never joins what began before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import ContextVar
from functools import partial

from b1.cache.reading.flight import Flight as Flight
from b1.cache.reading.many import BatchLoader
from b1.cache.reading.places import Places, Turn
from b1.cache.reading.reads import Read
from b1.cache.reading.shared import Answer
from b1.clock import DEADLINE, Clock, remaining
from b1.errors import DeadlineExceeded, NotReady, Overloaded
from b1.types import Versions

Run = Callable[[Flight], Awaitable[None]]
RunTogether = Callable[[Sequence[Flight], Callable[[Flight], None]], Awaitable[None]]
Failed = Callable[[Flight, Exception], None]


# The loads that the running code is a part of, outermost first.
_WITHIN: ContextVar[tuple[Flight, ...]] = ContextVar("b1_cache_loads", default=())


# The load ends by its own timeout first, which tells all who wait why. Who waits longer does so for a loader that does not
# let itself be cancelled.
GRACE_S = 0.05


class Flights:
    """All loads under way.

    Args:
        run: does the work of one; it lands it or raises.
        run_together: does the common part of many; it lands or launches each of them, or raises.
        left: told about those that were cancelled before they began.
        failed: told about those that went wrong, with what those who wait are told.
        most: how many there may be.
    """

    def __init__(
        self,
        run: Run,
        run_together: RunTogether,
        left: Callable[[Flight], None],
        failed: Failed,
        places: Places,
        clock: Clock,
        *,
        most: int,
    ) -> None:
        self._run = run
        self._left = left
        self._run_together = run_together
        self._failed = failed
        self._places = places
        self._clock = clock
        self._most = most
        self._open: dict[tuple[str, Versions], Flight] = {}
        self._all: set[Flight] = set()
        self._formations: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Flights open={len(self._open)} running={len(self._all)}>"

    def __len__(self) -> int:
        """Return how many have no result yet."""
        return sum(not flight.is_done for flight in self._all)

    def find(self, name: str, versions: Versions) -> Flight | None:
        """Return the load that a caller may join.

        Raises:
            RuntimeError: the caller is a part of it: it would wait for itself.
        """
        flight = self._open.get((name, versions))
        if flight is None:
            return None
        within, own = _WITHIN.get(), flight.read.batch
        if flight in within or (own is not None and any(_is_of(one, own) for one in within)):
            raise RuntimeError(f"the loader of {flight.read.namespace!r} reads the very entry that it loads")
        if within:
            self._places.free(flight.turn)
            if own is not None:
                own.batch.free(self._places.free)
        return flight

    def begin(
        self,
        read: Read,
        versions: Versions,
        *,
        is_background: bool = False,
        answer: Answer | None = None,
        newer_than_ms: int | None = None,
        is_free: bool = False,
    ) -> Flight:
        """Begin a load.

        Raises:
            Overloaded: too many are under way.
            NotReady: the cache is closed.
        """
        self.admit(1)
        is_free = is_free or (not is_background and self.is_within)
        flight = self.register(read, versions, Turn(is_background=is_background, is_free=is_free))
        flight.answer, flight.is_asked = answer, answer is not None
        flight.newer_than_ms = newer_than_ms
        self.launch(flight)
        return flight

    def admit(self, count: int) -> None:
        """Make sure that so many may begin.

        Raises:
            Overloaded: too many are under way.
            NotReady: the cache is closed.
        """
        if self._is_closed:
            raise NotReady("the cache is closed")
        if len(self._all) + count > self._most:
            raise Overloaded(f"{len(self._all)} of {self._most} loads are under way")

    def register(self, read: Read, versions: Versions, turn: Turn) -> Flight:
        """Let others join a load that begins with `launch`, or ends with `land` and `close`."""
        flight = Flight(read, versions, turn, asyncio.get_running_loop().time() + read.hard_timeout_s)
        self._open[read.name, versions] = flight
        self._all.add(flight)
        return flight

    def launch(self, flight: Flight) -> None:
        """Begin the work of a load, in a task of its own."""
        is_background = flight.turn.is_background
        # The load belongs to everybody who waits for it, so it does not inherit the first caller's deadline.
        deadline = DEADLINE.set(None)
        within = _WITHIN.set((flight,) if is_background else (*_WITHIN.get(), flight))
        try:
            loop = asyncio.get_running_loop()
            flight.task = loop.create_task(self._fly(flight), name=f"b1-load:{flight.read.namespace}")
        finally:
            _WITHIN.reset(within)
            DEADLINE.reset(deadline)
        flight.task.add_done_callback(partial(self._ended, flight))

    def together(self, flights: Sequence[Flight]) -> asyncio.Task[None]:
        """Begin the common part of registered loads, in one task; it lands or launches each of them."""
        deadline = DEADLINE.set(None)
        try:
            task = asyncio.get_running_loop().create_task(self._fly_together(flights), name="b1-load-together")
        finally:
            DEADLINE.reset(deadline)
        self._formations.add(task)
        task.add_done_callback(partial(self._parted, flights))
        return task

    def close(self, flight: Flight) -> None:
        """End a load that was never launched."""
        self.close_to_joiners(flight)
        self._all.discard(flight)

    async def wait(self, flight: Flight, *, until_stale: bool, timeout_s: float) -> bool:
        """Wait for the result, or for stale news; say whether the result is there. The request's deadline ends it too.

        Call `join` before and `leave` after.
        """
        if flight.is_done or (until_stale and flight.stale is not None):
            return flight.is_done
        limit_s, loop = remaining(self._clock, timeout_s), asyncio.get_running_loop()
        news = flight.waiting(until_stale=until_stale)
        # The load's own end mostly comes first, and then nobody needs another timer.
        timer = loop.call_later(limit_s, _wake, news) if loop.time() + limit_s < flight.ends_s else None
        try:
            await news
        finally:
            flight.forget(news)
            if timer is not None:
                timer.cancel()
        return flight.is_done

    @property
    def is_within(self) -> bool:
        """Whether the running code is part of a load."""
        return bool(_WITHIN.get())

    def join(self, flight: Flight, *, hurries: bool = True) -> None:
        """Be one of those who wait; who has a stale value is in no hurry."""
        flight.waiters += 1
        if hurries and not flight.is_done:
            self._places.hurry(flight.turn)

    def keep(self, flight: Flight) -> None:
        """Let it go on without anybody who waits."""
        flight.is_kept = True

    def leave(self, flight: Flight) -> None:
        """Wait no more; with the last one the load ends, unless it is kept."""
        flight.waiters -= 1
        if flight.waiters or flight.is_kept or flight.is_done:
            return
        flight.is_abandoned = True
        self.close_to_joiners(flight)
        if flight.task is not None:
            flight.task.cancel()

    def close_to_joiners(self, flight: Flight) -> None:
        """Let nobody join any more: its value is in L1, or will not be."""
        name = (flight.read.name, flight.versions)
        if self._open.get(name) is flight:
            del self._open[name]

    def overtake(self, tags: Collection[str] | None) -> None:
        """Mark the loads that depend on one of the tags, None: all of them."""
        for flight in list(self._all):
            if tags is None or (not flight.is_overtaken and any(tag in tags for tag in flight.read.tags)):
                flight.is_overtaken = True
                self.close_to_joiners(flight)

    async def aclose(self) -> None:
        """End all; whoever still waits is told that the cache is closed."""
        self._is_closed = True
        flights = list(self._all)
        for flight in flights:
            flight.crash(NotReady("the cache is closed"))
            if flight.task is not None:
                flight.task.cancel()
        for task in self._formations:
            task.cancel()
        tasks = [flight.task for flight in flights if flight.task is not None]
        await asyncio.gather(*tasks, *self._formations, return_exceptions=True)

    async def _fly(self, flight: Flight) -> None:
        timer = asyncio.get_running_loop().call_at(flight.ends_s, self._overdue, flight)
        try:
            await self._run(flight)
        except asyncio.CancelledError:
            # Our own cancellation has nobody left who listens; any other one was the loader's, and is no reason to
            # cancel those who wait.
            self._crash(flight, _late(flight) if flight.is_overdue else _cancelled(flight))
            raise
        except Exception as error:  # noqa: BLE001 - it is for those who wait, each of whom raises it
            self._crash(flight, error)
        finally:
            timer.cancel()
            self.close(flight)  # before those who wait go on, and perhaps ask again
            # Else the context of the task holds the load and its value, and the load its task, until the collector comes.
            _WITHIN.set(())

    async def _fly_together(self, flights: Sequence[Flight]) -> None:
        try:
            await self._run_together(flights, self.launch)
        except Exception as error:  # noqa: BLE001 - it is for those who wait, each of whom raises it
            for flight in flights:
                if flight.task is None:
                    self._crash(flight, error)
        finally:
            for flight in flights:
                if flight.task is None and flight.is_done:
                    self.close(flight)

    def _overdue(self, flight: Flight) -> None:
        assert flight.task is not None
        flight.is_overdue = True
        flight.task.cancel()
        # A loader that does not let itself be cancelled holds up nobody.
        asyncio.get_running_loop().call_later(GRACE_S, self._crash, flight, _late(flight))

    def _crash(self, flight: Flight, error: Exception) -> None:
        if flight.crash(error) and not flight.is_abandoned:
            self._failed(flight, error)

    def _ended(self, flight: Flight, task: asyncio.Task[None]) -> None:
        self.close(flight)
        if not task.cancelled():
            task.exception()
        elif flight.is_asked:  # nobody has looked at the answer
            self._left(flight)

    def _parted(self, flights: Sequence[Flight], task: asyncio.Task[None]) -> None:
        self._formations.discard(task)
        for flight in flights:
            if flight.task is None:
                self._crash(flight, _cancelled(flight))
                self.close(flight)


def _is_of(flight: Flight, loader: BatchLoader) -> bool:
    return flight.read.batch is not None and flight.read.batch.batch is loader.batch


def _wake(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)


def _late(flight: Flight) -> DeadlineExceeded:
    read = flight.read
    return DeadlineExceeded(f"loading {read.namespace} took longer than {read.hard_timeout_s} s")


def _cancelled(flight: Flight) -> DeadlineExceeded:
    return DeadlineExceeded(f"the load of {flight.read.namespace} was cancelled")
