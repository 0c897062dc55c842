"""How a read gets its value: from this process, from the shared store, from a load; and when stale is better.

In this order, each step only if the one before has nothing: a copy here that is known to be current; where that cannot be
known, the shared store's word on it; a load that runs already; a load of its own. While it loads, a stale value goes to
whoever may have it: at once, after the soft timeout, or when the load fails, as the options say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from b1.cache.counts import Counts
from b1.cache.l1.table import L1, Found
from b1.cache.options import CacheOptions
from b1.cache.packing.dictionaries import Dictionaries
from b1.cache.packing.envelopes import Envelopes
from b1.cache.reading.flight import Flight
from b1.cache.reading.flights import GRACE_S, Flights
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
            self._keeping, self.shared, self._places, counts, clock,
            background=background, is_saturated=is_saturated,
        )  # fmt: skip
        self.flights = Flights(
            self._loading.run, self._loading.run_together, self._loading.left, self._loading.failed, self._places, clock,
            most=options.flights,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Engine {self.flights!r} {self._places!r} shared={self.shared!r}>"

    async def aclose(self) -> None:
        """End what goes on behind the answers, when no loads run any more."""
        await self.tasks.aclose()
        if self.shared is not None:
            await self.shared.aclose()

    async def value(self, read: Read, found: Found | None) -> Value:
        """Return the value of a read that L1 alone cannot answer."""
        answer = None
        if self.shared is not None and self.shared.must_ask:
            answer = await self._loading.ask(read, self.held(read, found))
            settled = self.settled(read, found, answer)
            if settled is not None:
                return settled
        return await self.unsettled(read, found, answer)

    def settled(self, read: Read, found: Found | None, answer: Answer | None) -> Value | None:
        """Return what the shared store's word on a read, and on the copy here, settles."""
        if answer is not None and answer.state is State.FRESH:
            self.counts.l2_hits += 1
            self.counts.hit(read.key)
            return self._keeping.take(read, answer)
        if found is None or found.is_stale or not (answer is None or answer.state is State.HELD):
            return None
        self.counts.l1_hits += 1
        self.counts.hit(read.key)
        if found.meta is not None:
            self._look_after(read, found)
        return value_of(found)

    async def unsettled(self, read: Read, found: Found | None, answer: Answer | None) -> Value:
        """Return the value of a read that nothing has settled: stale, or from a load."""
        stale = value_of(found) if found is not None and found.is_stale and read.options.stale_s else None
        if stale is not None and answer is None and self._loading.is_hopeless(read):
            return self._served(read, stale, "saturated" if self._is_saturated() else "error")
        versions = self._l1.versions_of(read.tags) if answer is None else Versions(read.tags, answer.vector)
        is_background = stale is not None and read.options.revalidate
        flight = self._flight(read, versions, answer, is_background=is_background)
        return await self.awaited(flight, read, stale)

    def needs_care(self, found: Found) -> bool:
        """Say whether a fresh copy is more than bytes to hand out: it is an error, or there is something to do for it."""
        meta = found.meta
        is_due = meta.reads + 1 == self._options.promote_reads or meta.early_from_s <= self._clock.monotonic()
        return bool(is_due or meta.flags & ERROR)

    def versions_of(self, read: Read) -> Versions:
        """Return the versions of a read's tags as this process knows them."""
        return self._l1.versions_of(read.tags)

    async def ask_many(self, reads: Sequence[Read], found: Sequence[Found | None]) -> list[Answer]:
        """Ask the shared store about many, also about the copies here; no answers when it does not answer."""
        held = [self.held(read, copy) for read, copy in zip(reads, found, strict=True)]
        return await self._loading.ask_many(reads, held)

    async def present(self, read: Read, found: Found | None) -> Value | None:
        """Return what is there and fresh, here or in the shared store; nothing is loaded."""
        here, shared = None if found is None else value_of(found), self.shared
        if shared is None or not shared.is_there or (here is not None and not shared.must_ask):
            return here
        held = self.held(read, found)
        answer = await shared.ask(read.name, read.place, read.tags, held=held, namespace=read.namespace)
        return self.there(read, here, answer)

    def there(self, read: Read, here: Value | None, answer: Answer | None) -> Value | None:
        """Return what is fresh after the shared store's word on it."""
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

    def _look_after(self, read: Read, found: Found) -> None:
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

    async def in_a_place(self, turn: Turn, work: Callable[[], Awaitable[T]]) -> T:
        """Load something that several flights share."""
        await self._places.take(turn)
        try:
            self.counts.loads += 1
            return await work()
        finally:
            self._places.give_back(turn)

    def held(self, read: Read, found: Found | None) -> bytes | None:
        """Return what a fresh copy here was built on; None when it carries other tags than this read."""
        if found is None or found.is_stale:
            return None
        built_on = self._l1.built_on(read.name)
        return built_on.vector if built_on is not None and built_on.tags == read.tags else None

    def give_up(self, read: Read, answer: Answer | None) -> None:
        """End the lease that an answer may have brought, because no load comes of it."""
        if answer is not None and answer.is_ours and self.shared is not None:
            self.shared.give_up(read.place, read.tags, answer.vector)

    def _flight(self, read: Read, versions: Versions, answer: Answer | None, *, is_background: bool) -> Flight:
        try:
            flight = self.flights.find(read.name, versions)
            if flight is None:
                return self.flights.begin(
                    read, versions, is_background=is_background, answer=answer, is_free=read.batch is not None
                )
        except Exception:
            self.give_up(read, answer)
            raise
        self.give_up(read, answer)  # that load asks by itself
        self.counts.joined += 1
        if read.batch is not None:
            read.batch.aside()
        return flight

    async def awaited(self, flight: Flight, read: Read, stale: Value | None) -> Value:
        """Wait for a load, or for the moment from which something stale is better."""
        flights, options = self.flights, read.options
        flights.join(flight, hurries=stale is None or not options.revalidate)
        try:
            if stale is None and not await flights.wait(
                flight, until_stale=bool(options.stale_s), timeout_s=read.hard_timeout_s + GRACE_S
            ):
                stale = flight.stale
                if stale is None:
                    self.counts.miss(read.key)
                    raise DeadlineExceeded(f"loading {read.namespace} took too long")
            if not flight.is_done and stale is not None:
                reason = await self._reason_for_stale(flight, read)
                if reason:
                    flights.keep(flight)
                    return self._served(read, stale, reason)
            return self.outcome(flight, read, stale or flight.stale)
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

    def outcome(self, flight: Flight, read: Read, stale: Value | None) -> Value:
        """Return what a load that is over gives this read."""
        error = flight.error
        is_answer = error is None or isinstance(error, read.options.errors)
        if not is_answer and stale is not None and read.options.on_error:
            return self._served(read, stale, "error")
        if error is None and not flight.has_loaded:
            self.counts.l2_hits += 1
            self.counts.hit(read.key)
        else:
            self.counts.miss(read.key)
        return flight.result()

    def _served(self, read: Read, stale: Value, reason: str) -> Value:
        self.counts.stale[reason] += 1
        self.counts.hit(read.key)
        return stale


def value_of(found: Found) -> Value:
    """Return the value of a copy in this process."""
    return Value(found.value, 0 if found.meta is None else found.meta.flags)
