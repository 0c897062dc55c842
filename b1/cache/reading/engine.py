"""How a read gets its value: from this process, from the shared store, from a load; and when stale is better.

In this order, each step only if the one before has nothing: a copy here that is known to be current; where that cannot be
known, the shared store's word on it; a load that runs already; a load of its own. While it loads, a stale value goes to
whoever may have it: at once, after the soft timeout, or when the load fails, as the options say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from b1.cache.counts import Counts
from b1.cache.l1.table import L1, Found
from b1.cache.options import CacheOptions
from b1.cache.packing.dictionaries import Dictionaries
from b1.cache.packing.envelopes import Envelopes
from b1.cache.reading.flights import Flight, Flights
from b1.cache.reading.keeping import Keeping, Times
from b1.cache.reading.learning import Learning
from b1.cache.reading.loading import Loading
from b1.cache.reading.places import Places, Turn
from b1.cache.reading.reads import Read
from b1.cache.reading.shared import Answer, CacheStore, Shared, State
from b1.cache.reading.tasks import Tasks
from b1.cache.reading.values import ERROR, Value
from b1.clock import Clock
from b1.errors import DeadlineExceeded, RequestError
from b1.types import Versions

T = TypeVar("T")

# Work behind the answers: leases given up, lives extended, dictionaries. What is more is left out.
_TASKS = 64
# The load ends by its own timeout first, which tells all who wait why. Who waits longer does so for a loader that does not
# let itself be cancelled.
_GRACE_S = 0.05


class Engine:
    """All parts of a cache, put together."""

    def __init__(
        self,
        l1: L1,
        clock: Clock,
        options: CacheOptions,
        store: CacheStore | None,
        *,
        is_saturated: Callable[[], bool],
        background: Callable[[], AbstractContextManager[object]],
        random: Callable[[], float],
    ) -> None:
        self._l1 = l1
        self._clock = clock
        self._options = options
        self._is_saturated = is_saturated
        self._random = random
        self.counts = counts = Counts(options.namespaces)
        self.tasks = Tasks(_TASKS)
        self._places = Places(options.loads, options.refreshes)
        dictionaries = Dictionaries(clock, enabled=options.dictionaries, level=options.warm_level)
        self.learning = Learning(dictionaries, self.tasks, is_busy=lambda: bool(self._places.running) or is_saturated())
        envelopes = Envelopes(options, dictionaries, self.learning.wanted)
        # Without Redis the store's memory would be a second copy in the same process.
        self.shared: Shared | None = None
        if store is not None and store.mode != "memory":
            self.shared = Shared(
                store, envelopes, counts, timeout_s=options.store_timeout_s, limit_bytes=options.shared_limit_bytes
            )
            self.learning.through(self.shared, envelopes)
        self._keeping = Keeping(
            l1, envelopes, self.learning, self.tasks, counts, clock, options, self.shared, random=random
        )
        self._loading = Loading(
            self._keeping, self.shared, self._places, self.tasks, counts, clock,
            background=background, is_saturated=is_saturated,
        )  # fmt: skip
        self.flights = Flights(self._loading.run, self._loading.failed, self._places, clock, most=options.flights)

    def __repr__(self) -> str:
        return f"<Engine {self.flights!r} {self._places!r} shared={self.shared!r}>"

    async def value(self, read: Read, found: Found | None) -> Value:
        """Return the value of a read that L1 alone cannot answer."""
        here = stale = None
        if found is not None:
            value = Value(found.value, 0 if found.meta is None else found.meta.flags)
            if not found.is_stale:
                here = value
            elif read.options.stale_s:
                stale = value
        versions, answer = self._l1.versions_of(read.tags), None
        if self.shared is not None and self.shared.must_ask:
            answer = await self._loading.ask(read, None if here is None else self._held(read))
            settled = self._settled(read, answer, here)
            if settled is not None:
                if found is not None and found.meta is not None and here is settled:
                    self.look_after(read, found)
                return settled
            if answer is not None:
                versions = Versions(read.tags, answer.vector)
        if stale is not None and answer is None and self._loading.is_hopeless(read):
            return self._served(read, stale, "saturated" if self._is_saturated() else "error")
        is_background = stale is not None and read.options.revalidate
        flight = self._flight(read, versions, answer, is_background=is_background)
        return await self._awaited(flight, read, stale)

    async def present(self, read: Read, found: Found | None) -> Value | None:
        """Return what is there and fresh, here or in the shared store; nothing is loaded."""
        here = None if found is None else Value(found.value, 0 if found.meta is None else found.meta.flags)
        shared = self.shared
        if shared is None or not shared.is_there or (here is not None and not shared.must_ask):
            return here
        held = None if here is None else self._held(read)
        answer = await shared.ask(read.name, read.place, read.tags, held=held, namespace=read.namespace)
        if answer is None or answer.state is State.HELD:
            return here
        return self._keeping.take(read, answer) if answer.state is State.FRESH else None

    async def replace(self, read: Read, value: Value) -> bool:
        """Keep a value that was not loaded, after what it replaces was invalidated."""
        vector = None
        if self.shared is not None and self.shared.is_there:
            answer = await self.shared.ask(read.name, None, read.tags)
            vector = None if answer is None else answer.vector
        versions = self._l1.versions_of(read.tags) if vector is None else Versions(read.tags, vector)
        return await self._keeping.keep(read, value, versions, is_shared=vector is not None)

    def look_after(self, read: Read, found: Found) -> None:
        """Count a read, and see to the value when there may be something to do."""
        meta = found.meta
        meta.reads += 1
        is_due = meta.reads == self._options.promote_reads or meta.early_from_s <= self._clock.monotonic()
        if is_due and not meta.flags & ERROR:
            self.attend(read, found)

    def attend(self, read: Read, found: Found) -> None:
        """After a hit: perhaps load anew before the end, or keep longer what is much read."""
        meta, now_s = found.meta, self._clock.monotonic()
        if meta.reads == self._options.promote_reads:
            versions = self._l1.versions_of(read.tags)
            times = Times(found.expires_s - now_s, read.options.stale_s, meta.delta_s, meta.created_ms)
            self._keeping.extend(read, Value(found.value, meta.flags), meta.flags, times, versions)
        if now_s < meta.early_from_s or not meta.is_due(now_s, self._random) or self._loading.is_hopeless(read):
            return
        versions = self._l1.versions_of(read.tags)
        if self.flights.find(read.name, versions) is None:
            try:
                self.flights.begin(read, versions, is_background=True, newer_than_ms=meta.created_ms)
            except RequestError:  # too much is under way, or the cache closes: the value is good for a while yet
                return

    async def in_a_place(self, work: Callable[[], Awaitable[T]]) -> T:
        """Load something that several flights share."""
        turn = Turn(is_free=self.flights.is_within)
        await self._places.take(turn)
        try:
            self.counts.loads += 1
            return await work()
        finally:
            self._places.give_back(turn)

    def _held(self, read: Read) -> bytes | None:
        """Return what the copy here was built on; None when it carries other tags than this read."""
        built_on = self._l1.built_on(read.name)
        return built_on.vector if built_on is not None and built_on.tags == read.tags else None

    def _flight(self, read: Read, versions: Versions, answer: Answer | None, *, is_background: bool) -> Flight:
        flight = self.flights.find(read.name, versions)
        if flight is not None:
            self.counts.joined += 1
            if read.batch is not None:
                read.batch.aside()
            return flight
        return self.flights.begin(
            read, versions, is_background=is_background, answer=answer, is_free=read.batch is not None
        )

    def _settled(self, read: Read, answer: Answer | None, here: Value | None) -> Value | None:
        """Return what the shared store's word on a copy settles."""
        if answer is None or answer.state is State.HELD:
            if here is not None:
                self.counts.l1_hits += 1
                self.counts.hit(read.key)
            return here
        if answer.state is not State.FRESH:
            return None
        self.counts.l2_hits += 1
        self.counts.hit(read.key)
        return self._keeping.take(read, answer)

    async def _awaited(self, flight: Flight, read: Read, stale: Value | None) -> Value:
        flights, options = self.flights, read.options
        flights.join(flight, hurries=stale is None or not options.revalidate)
        try:
            if stale is None and not await flights.wait(
                flight, until_stale=bool(options.stale_s), timeout_s=read.hard_timeout_s + _GRACE_S
            ):
                stale = flight.stale
                if stale is None:
                    self.counts.miss(read.key)
                    raise DeadlineExceeded(f"loading {read.namespace} took too long")
            if not flight.result.done() and stale is not None:
                reason = await self._reason_for_stale(flight, read)
                if reason:
                    flights.keep(flight)
                    return self._served(read, stale, reason)
            return self._outcome(flight, read, stale or flight.stale)
        finally:
            flights.leave(flight)

    async def _reason_for_stale(self, flight: Flight, read: Read) -> str:
        """Say why a stale value is served while the load goes on; nothing when it came in time."""
        if self._is_saturated():
            return "saturated"
        if read.options.revalidate:
            return "revalidate"
        in_time = await self.flights.wait(flight, until_stale=False, timeout_s=read.options.soft_timeout_s)
        return "" if in_time else "timeout"

    def _outcome(self, flight: Flight, read: Read, stale: Value | None) -> Value:
        error = flight.result.exception()
        is_answer = error is None or isinstance(error, read.options.errors)
        if not is_answer and stale is not None and read.options.on_error:
            return self._served(read, stale, "error")
        if error is None and not flight.has_loaded:
            self.counts.l2_hits += 1
            self.counts.hit(read.key)
        else:
            self.counts.miss(read.key)
        return flight.result.result()

    def _served(self, read: Read, stale: Value, reason: str) -> Value:
        self.counts.stale[reason] += 1
        self.counts.hit(read.key)
        return stale
