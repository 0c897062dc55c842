"""What a load does: ask the shared store, load if the lease is ours, keep the value in both copies.

The vector of tag versions is taken before the load, never after it: that order is the whole guarantee. Those who wait get
the value before the shared store has it; the store then refuses it if anything moved meanwhile.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest

from b1.cache.counts import Counts
from b1.cache.reading.flight import Flight
from b1.cache.reading.keeping import Keeping
from b1.cache.reading.places import Places
from b1.cache.reading.reads import Read
from b1.cache.reading.shared import Answer, Shared, State
from b1.cache.reading.tiers import Throttle
from b1.cache.reading.values import Value, encode
from b1.clock import Clock
from b1.errors import DeadlineExceeded

# Somebody else loads: look again after this, twice as long each time, until their lease is ours.
_LOOK_FIRST_S, _LOOK_LAST_S = 0.005, 0.05


class _Way(enum.Enum):
    LOAD = "load"
    OVER = "over"  # the value is there, or is not wanted any more
    ASK = "ask"


class Loading:
    """Runs flights.

    Args:
        is_saturated: says whether the database has more to do than it can.
        background: entered around a load for nobody who waits: what it asks of the database is background work.
    """

    def __init__(
        self,
        keeping: Keeping,
        shared: Shared | None,
        places: Places,
        counts: Counts,
        clock: Clock,
        *,
        background: Callable[[], AbstractContextManager[object]],
        is_saturated: Callable[[], bool],
    ) -> None:
        self._keeping = keeping
        self._shared = shared
        self._places = places
        self._counts = counts
        self._clock = clock
        self._background = background
        self._is_saturated = is_saturated
        self.throttle = Throttle()

    def __repr__(self) -> str:
        return f"<Loading {self._places!r} {self.throttle!r}>"

    async def run(self, flight: Flight) -> None:
        """Bring the value of a flight."""
        shared = self._shared
        way = _Way.LOAD
        if shared is not None and shared.is_there and flight.read.residence.tier != "hot":
            way = await self._refreshing(flight, shared) if flight.newer_than_ms is not None else _Way.ASK
            if way is _Way.ASK:
                way = await self._asking(flight)
        if way is _Way.LOAD:
            await self._load(flight)

    async def run_together(self, flights: Sequence[Flight], launch: Callable[[Flight], None]) -> None:
        """Read the second copies of many at once; what is not there goes on alone, with what the store said of it."""
        reads = [flight.read for flight in flights]
        answers = await self.ask_many(reads)
        for flight, answer in zip_longest(flights, answers):
            if answer is not None and answer.state is State.FRESH:
                flight.vector = answer.vector
                flight.land(self._keeping.take(flight.read, answer))
            elif flight.is_abandoned:
                flight.vector = None if answer is None or not answer.is_ours else answer.vector
                self._give_up(flight)
            elif not flight.is_done:
                flight.answer, flight.is_asked = answer, True
                launch(flight)

    async def ask_many(self, reads: Sequence[Read], held: Sequence[bytes | None] = ()) -> list[Answer]:
        """Do what `ask` does, for many at once; no answers when the store does not answer."""
        assert self._shared is not None
        lease_s = max(read.hard_timeout_s for read in reads)
        return await self._shared.ask_many(reads, lease_s=lease_s, held=held) or []

    async def ask(self, read: Read, held: bytes | None = None) -> Answer | None:
        """Read the second copy, and take the lease if there is none; of a hot value, learn whether `held` is good."""
        assert self._shared is not None
        place = None if read.residence.tier == "hot" else read.place
        return await self._shared.ask(
            read.name, place, read.tags, lease_s=read.hard_timeout_s, held=held, namespace=read.namespace
        )

    def is_hopeless(self, read: Read) -> bool:
        """Say whether a stale value is better than trying: the load has just failed, or the database is saturated."""
        return self._is_saturated() or self.throttle.holds(read.name, self._clock.monotonic())

    async def _asking(self, flight: Flight) -> _Way:
        """Ask until the value is there or the lease is ours."""
        pause_s = _LOOK_FIRST_S
        while True:
            answer = flight.answer if flight.is_asked else await self.ask(flight.read)
            flight.answer, flight.is_asked = None, False
            if answer is None:
                return _Way.LOAD  # the store does not answer, and the copy in this process has to do
            flight.vector = answer.vector
            if answer.state is State.FRESH:
                flight.land(self._keeping.take(flight.read, answer))
                return _Way.OVER
            if answer.state is State.STALE and flight.read.options.stale_s:
                stale = self._keeping.take(flight.read, answer)
                if self.is_hopeless(flight.read):
                    self._give_up(flight)
                    flight.land(stale)
                    return _Way.OVER
                flight.found_stale(stale)
            if answer.is_ours or not answer.is_loading:
                return _Way.LOAD
            if flight.read.batch is not None:
                flight.read.batch.aside()
            await asyncio.sleep(pause_s)
            pause_s = min(_LOOK_LAST_S, 2 * pause_s)

    async def _refreshing(self, flight: Flight, shared: Shared) -> _Way:
        """Before the end of a value's time: one host loads anew, and the others find what it stored."""
        read = flight.read
        answer = await shared.ask(read.name, read.place, read.tags, namespace=read.namespace)
        if answer is not None and answer.state is State.FRESH and answer.head is not None:
            if answer.head.created_ms > (flight.newer_than_ms or 0):
                flight.land(self._keeping.take(read, answer))
                return _Way.OVER
            flight.vector = await shared.lease(read.place, read.tags, read.hard_timeout_s)
            if flight.vector is not None:
                return _Way.LOAD
        # Somebody else reloads. Whoever joined meanwhile has no value yet, and goes the usual way.
        return _Way.ASK if flight.waiters or answer is None else _Way.OVER

    async def _load(self, flight: Flight) -> None:
        try:
            value, began_s, ended_s = await self._loaded(flight)
        except BaseException:
            self._give_up(flight)
            raise
        self.throttle.worked(flight.read.name)
        kept = self._keeping.keep_here(flight, value, began_s, ended_s)
        flight.land(value)
        if kept is None:
            self._give_up(flight)
        elif flight.vector is not None and self._shared is not None:
            try:
                await self._keeping.keep_there(flight.read, value, kept, flight.vector, waits=False)
            except BaseException:
                self._give_up(flight)
                raise

    async def _loaded(self, flight: Flight) -> tuple[Value, float, float]:
        if not self._places.try_take(flight.turn):
            await self._places.take(flight.turn)
        try:
            is_background = flight.turn.is_background
            flight.has_loaded = True
            self._counts.loads += flight.read.batch is None  # a batch counts its call itself
            self._counts.refreshes += is_background
            began_s = self._clock.monotonic()
            if is_background:
                with self._background():
                    loaded = await flight.read.loader()
            else:
                loaded = await flight.read.loader()
            return encode(loaded), began_s, self._clock.monotonic()
        finally:
            self._places.give_back(flight.turn)

    def failed(self, flight: Flight, error: Exception) -> None:
        """Remember what went wrong: an exception that is an answer is kept, after any other stale is served for a while."""
        if isinstance(error, flight.read.options.errors):
            self._keeping.keep_error(flight, error)
            return
        self._counts.error("timeout" if isinstance(error, DeadlineExceeded) else "load")
        if flight.read.options.stale_s:
            self.throttle.failed(flight.read.name, self._clock.monotonic() + flight.read.options.throttle_s)

    def left(self, flight: Flight) -> None:
        """Hear of a load that was cancelled before it began."""
        if flight.answer is not None and flight.answer.is_ours:
            flight.vector = flight.answer.vector
            self._give_up(flight)

    def _give_up(self, flight: Flight) -> None:
        """End the lease, in the background: nobody should wait for that, least of all a cancelled load."""
        if flight.vector is None or self._shared is None:
            return
        read = flight.read
        self._shared.give_up(read.place, read.tags, flight.vector)
