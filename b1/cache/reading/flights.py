"""Loads under way: one per entry and vector, owned by all who wait for it together.

A caller who gives up takes nobody's load away; when the last one has gone the load is cancelled, unless it began for
nobody. Entry and vector together name a load: who comes after an invalidation never joins what began before it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from typing import Any

from b1.cache.reading.places import Places, Turn
from b1.cache.reading.reads import Read
from b1.cache.reading.shared import Answer
from b1.cache.reading.values import Value
from b1.clock import DEADLINE, Clock, remaining
from b1.errors import DeadlineExceeded, NotReady, Overloaded
from b1.types import Versions

Run = Callable[["Flight"], Awaitable[None]]
Failed = Callable[["Flight", Exception], None]


class Flight:
    """One load. Guarded by the event loop; written between awaits alone.

    Attributes:
        result: the value, or what went wrong. It comes before the value is in the shared store.
        news: done when a stale value was found on the way; `stale` is it then.
        is_kept: it goes on when nobody waits any more.
        is_abandoned: nobody wanted it any more.
        has_loaded: the loader was called; else the value was in the shared store.
        is_overtaken: something it depends on was invalidated since it began; nothing of it is kept.
        answer: what the shared store said, where somebody has asked already.
        vector: of the shared store, once it has answered.
        newer_than_ms: of a reload before the end: when the present value was made.
    """

    __slots__ = (
        "answer", "has_loaded", "is_abandoned", "is_kept", "is_overtaken", "newer_than_ms", "news", "read", "result",
        "stale", "task", "turn", "vector", "versions", "waiters",
    )  # fmt: skip

    def __init__(self, read: Read, versions: Versions, turn: Turn, answer: Answer | None) -> None:
        loop = asyncio.get_running_loop()
        self.read = read
        self.versions = versions
        self.turn = turn
        self.answer = answer
        self.vector: bytes | None = None
        self.newer_than_ms: int | None = None
        self.result: asyncio.Future[Value] = loop.create_future()
        self.news: asyncio.Future[None] = loop.create_future()
        self.stale: Value | None = None
        self.task: asyncio.Task[None] | None = None
        self.waiters = 0
        self.is_kept = turn.is_background
        self.is_abandoned = False
        self.has_loaded = False
        self.is_overtaken = False

    def __repr__(self) -> str:
        return f"<Flight {self.read.namespace} waiters={self.waiters} is_kept={self.is_kept} done={self.result.done()}>"

    @property
    def built_on(self) -> Versions:
        """The versions that were taken before the load began."""
        return self.versions if self.vector is None else Versions(self.read.tags, self.vector)

    def found_stale(self, value: Value) -> None:
        """Tell those who wait that there is something better than nothing."""
        self.stale = value
        if not self.news.done():
            self.news.set_result(None)

    def land(self, value: Value) -> None:
        """Give the value to all who wait."""
        if not self.result.done():
            self.result.set_result(value)

    def crash(self, error: Exception) -> bool:
        """Give all who wait the error; False when they have a value already."""
        if self.result.done():
            return False
        self.result.set_exception(error)
        return True


# The loads that the running code is a part of, outermost first.
_WITHIN: ContextVar[tuple[Flight, ...]] = ContextVar("b1_cache_loads", default=())


class Flights:
    """All loads under way.

    Args:
        run: does the work of one; it lands it or raises.
        failed: told about those that went wrong, with what those who wait are told.
        most: how many there may be.
    """

    def __init__(self, run: Run, failed: Failed, places: Places, clock: Clock, *, most: int) -> None:
        self._run = run
        self._failed = failed
        self._places = places
        self._clock = clock
        self._most = most
        self._open: dict[tuple[str, Versions], Flight] = {}
        self._all: set[Flight] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Flights open={len(self._open)} running={len(self._all)}>"

    def __len__(self) -> int:
        """Return how many have no result yet."""
        return sum(not flight.result.done() for flight in self._all)

    def find(self, name: str, versions: Versions) -> Flight | None:
        """Return the load that a caller may join.

        Raises:
            RuntimeError: the caller is a part of it: it would wait for itself.
        """
        flight = self._open.get((name, versions))
        if flight is None:
            return None
        within = _WITHIN.get()
        if flight in within:
            raise RuntimeError(f"the loader of {flight.read.namespace!r} reads the very entry that it loads")
        if within:
            self._places.free(flight.turn)
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
        if self._is_closed:
            raise NotReady("the cache is closed")
        if len(self._all) >= self._most:
            raise Overloaded(f"{self._most} loads are under way")
        within = _WITHIN.get()
        turn = Turn(is_background=is_background, is_free=is_free or (bool(within) and not is_background))
        flight = Flight(read, versions, turn, answer)
        flight.newer_than_ms = newer_than_ms
        # The load belongs to everybody who waits for it, so it does not inherit the first caller's deadline.
        context = contextvars.copy_context()
        context.run(DEADLINE.set, None)
        context.run(_WITHIN.set, (flight,) if is_background else (*within, flight))
        loop = asyncio.get_running_loop()
        flight.task = loop.create_task(self._fly(flight), name=f"b1-load:{read.namespace}", context=context)
        self._open[read.name, versions] = flight
        self._all.add(flight)
        flight.task.add_done_callback(lambda task: self._ended(flight, task))
        flight.result.add_done_callback(_heard)
        return flight

    async def wait(self, flight: Flight, *, until_stale: bool, timeout_s: float) -> bool:
        """Wait for the result, or for stale news; say whether the result is there. The request's deadline ends it too.

        Call `join` before and `leave` after.
        """
        if flight.result.done():
            return True
        wanted: set[asyncio.Future[Any]] = {flight.result}
        if until_stale:
            wanted.add(flight.news)
        await asyncio.wait(wanted, timeout=remaining(self._clock, timeout_s), return_when=asyncio.FIRST_COMPLETED)
        return flight.result.done()

    @property
    def is_within(self) -> bool:
        """Whether the running code is part of a load."""
        return bool(_WITHIN.get())

    def join(self, flight: Flight, *, hurries: bool = True) -> None:
        """Be one of those who wait; who has a stale value is in no hurry."""
        flight.waiters += 1
        if hurries and not flight.result.done():
            self._places.hurry(flight.turn)

    def keep(self, flight: Flight) -> None:
        """Let it go on without anybody who waits."""
        flight.is_kept = True

    def leave(self, flight: Flight) -> None:
        """Wait no more; with the last one the load ends, unless it is kept."""
        flight.waiters -= 1
        if flight.waiters or flight.is_kept or flight.result.done() or flight.task is None:
            return
        flight.is_abandoned = True
        self.close_to_joiners(flight)
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
        await asyncio.gather(*(flight.task for flight in flights if flight.task is not None), return_exceptions=True)

    async def _fly(self, flight: Flight) -> None:
        limit = asyncio.timeout(flight.read.hard_timeout_s)
        try:
            async with limit:
                await self._run(flight)
        except TimeoutError as error:
            late = DeadlineExceeded(f"loading {flight.read.namespace} took longer than {flight.read.hard_timeout_s} s")
            self._crash(flight, late if limit.expired() else error)
        except asyncio.CancelledError:
            # Our own cancellation has nobody left who listens; any other one was the loader's, and is no reason to
            # cancel those who wait.
            self._crash(flight, DeadlineExceeded(f"the load of {flight.read.namespace} was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - it is for those who wait, each of whom raises it
            self._crash(flight, error)

    def _crash(self, flight: Flight, error: Exception) -> None:
        if flight.crash(error) and not flight.is_abandoned:
            self._failed(flight, error)

    def _ended(self, flight: Flight, task: asyncio.Task[None]) -> None:
        self.close_to_joiners(flight)
        self._all.discard(flight)
        if not task.cancelled():
            task.exception()


def _heard(result: asyncio.Future[Value]) -> None:
    if not result.cancelled():
        result.exception()  # a failed load whose callers have all left is not an unretrieved exception
