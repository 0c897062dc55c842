"""Reads of many keys: one look at this process, one trip to the shared store, one call of the loader for what is missing.

What the trip brings needs no task and no wait of its own. While it is under way each key is a load like any other, which
others may join; those that it does not settle go on alone from there. A key that somebody else loads already is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from orjson import loads

from b1.cache.how import How
from b1.cache.l1.table import Found
from b1.cache.names import entry_name
from b1.cache.reading.engine import Engine, value_of
from b1.cache.reading.flights import GRACE_S
from b1.cache.reading.many import Batch, BatchLoader, ManyLoader, distinct, gathered
from b1.cache.reading.places import Turn
from b1.cache.reading.reads import Loader, Read, Reads, nothing
from b1.cache.reading.shared import Answer
from b1.cache.reading.values import Value, decode
from b1.clock import Clock, remaining
from b1.errors import DeadlineExceeded

Decode = Callable[[bytes], Any]
Find = Callable[[str], Found | None]


class Together:
    """Brings the values of many reads, in their order.

    Args:
        find: in this process's map.
        engine: whose flights, copies and store these are.
        must_not_wait: see `b1.cache.Cache`.
    """

    def __init__(
        self, find: Find, engine: Engine, reads: Reads, clock: Clock, *, must_not_wait: Callable[[], bool]
    ) -> None:
        self._find = find
        self._engine = engine
        self._reads = reads
        self._clock = clock
        self._must_not_wait = must_not_wait

    def __repr__(self) -> str:
        return f"<Together {self._engine!r}>"

    async def get(
        self, keys: Iterable[str], loader: ManyLoader | None, organization: str | None, typed: Decode | None, how: How
    ) -> dict[str, Any]:
        """See `Cache.get_many`."""
        asked = distinct(keys)
        got, found = self._here(asked, organization, typed)
        if not found:
            return got
        if loader is None:
            got |= await self._present(found, organization, typed, how)
            return {key: got[key] for key in asked if key in got}
        missing = list(found)
        if self._must_not_wait():
            loaded = await loader(missing)
            return {key: got[key] if key in got else loaded.get(key) for key in asked}
        engine = self._engine
        batch = Batch(
            missing,
            lambda turn, wanted: engine.in_a_place(turn, lambda: loader(wanted)),
            is_free=engine.flights.is_within,
        )
        reads = self._reads.many(missing, lambda key: BatchLoader(batch, key), organization, how)
        for read, value in zip(reads, await self._load(reads, list(found.values()), batch), strict=True):
            got[read.key] = decode(value, typed)
        return {key: got[key] for key in asked}

    def _here(
        self, keys: Sequence[str], organization: str | None, typed: Decode | None
    ) -> tuple[dict[str, Any], dict[str, Found | None]]:
        """Return the values that this process has and knows to be fresh, and what it has of the others."""
        engine, find, counts = self._engine, self._find, self._engine.counts
        must_ask = engine.shared is not None and engine.shared.must_ask
        got: dict[str, Any] = {}
        rest: dict[str, Found | None] = {}
        for key in keys:
            found = find(key if organization is None else entry_name(key, organization))
            if found is None or must_ask or found.is_stale:
                rest[key] = found
            elif found.meta is None:
                got[key] = loads(found.value) if typed is None else typed(found.value)
            elif engine.needs_care(found):
                rest[key] = found
            else:
                found.meta.reads += 1
                got[key] = decode(value_of(found), typed)
        counts.l1_hits += len(got)
        counts.hit_many(got)
        return got, rest

    async def _present(
        self, found: Mapping[str, Found | None], organization: str | None, typed: Decode | None, how: How
    ) -> dict[str, Any]:
        counts, loading = self._engine.counts, self._reads.many(list(found), _nothing, organization, how)
        values = await self._there(loading, list(found.values()))
        for key, value in zip(found, values, strict=True):
            (counts.miss if value is None else counts.hit)(key)
        return {key: decode(value, typed) for key, value in zip(found, values, strict=True) if value is not None}

    async def _there(self, reads: Sequence[Read], found: Sequence[Found | None]) -> list[Value | None]:
        """Return what is there and fresh, here or in the shared store; nothing is loaded."""
        engine, shared = self._engine, self._engine.shared
        fresh = [None if copy is None or copy.is_stale else copy for copy in found]
        values = [None if copy is None else value_of(copy) for copy in fresh]
        if shared is None or not shared.is_there:
            return values
        asked = [at for at, value in enumerate(values) if value is None or shared.must_ask]
        held = [engine.held(reads[at], fresh[at]) for at in asked]
        answers = await shared.ask_many([reads[at] for at in asked], held=held) if asked else None
        for at, answer in zip(asked, answers or (), strict=False):
            values[at] = engine.there(reads[at], values[at], answer)
        return values

    async def _load(self, reads: Sequence[Read], found: Sequence[Found | None], batch: Batch) -> list[Value]:
        """Return all values; what is in neither copy comes from the batch.

        Args:
            found: what is here of each and is not simply good.
        """
        engine, shared = self._engine, self._engine.shared
        try:
            if shared is not None and shared.must_ask:
                return await self._asked(reads, found, batch)
            values, rest = {}, []
            for read, copy in zip(reads, found, strict=True):
                value = engine.settled(read, copy, None)
                if value is None:
                    rest.append((read, copy))
                else:
                    values[read.key] = value
            if shared is not None and shared.is_there and reads[0].residence.tier != "hot":
                return await self._flown(reads, values, rest, batch)
            return await self._waited(reads, values, [engine.value(read, copy) for read, copy in rest], batch)
        finally:
            batch.close()

    async def _asked(self, reads: Sequence[Read], found: Sequence[Found | None], batch: Batch) -> list[Value]:
        """Ask about all, also about what is here."""
        engine = self._engine
        answers = await engine.ask_many(reads, found)
        values: dict[str, Value] = {}
        rest: list[Coroutine[Any, Any, Value]] = []
        unled = {read.key: (read, answer) for read, answer in zip(reads, answers, strict=False) if answer.is_ours}

        def loaded(read: Read, copy: Found | None, answer: Answer | None) -> Coroutine[Any, Any, Value]:
            unled.pop(read.key, None)
            return engine.unsettled(read, copy, answer)

        try:
            for read, copy, answer in zip_longest(reads, found, answers):
                value = engine.settled(read, copy, answer)
                if value is None:
                    rest.append(_begun(loaded, read, copy, answer))
                else:
                    values[read.key] = value
            return await self._waited(reads, values, rest, batch)
        finally:
            for read, answer in unled.values():  # whose task was cancelled before it began
                engine.give_up(read, answer)

    async def _flown(
        self,
        reads: Sequence[Read],
        values: dict[str, Value],
        rest: Sequence[tuple[Read, Found | None]],
        batch: Batch,
    ) -> list[Value]:
        """Let what is not here, and what nobody loads yet, be read in one trip."""
        engine, flights = self._engine, self._engine.flights
        named = [(read, engine.versions_of(read)) for read, copy in rest if copy is None]
        new = [(read, versions) for read, versions in named if flights.find(read.name, versions) is None]
        flights.admit(len(new))
        flown = {read.key: flights.register(read, versions, Turn(is_free=True)) for read, versions in new}
        for flight in flown.values():
            flights.join(flight)
        try:
            if flown:
                await self._arrived(flights.together(list(flown.values())), reads)
            for key, flight in flown.items():
                if flight.is_done:
                    values[key] = engine.outcome(flight, flight.read, None)
            waiting = [
                engine.awaited(flown[read.key], read, None) if read.key in flown else engine.value(read, copy)
                for read, copy in rest
                if read.key not in values
            ]
            return await self._waited(reads, values, waiting, batch)
        finally:
            for flight in flown.values():
                flights.leave(flight)

    async def _arrived(self, trip: asyncio.Task[None], reads: Sequence[Read]) -> None:
        await asyncio.wait((trip,), timeout=remaining(self._clock, reads[0].hard_timeout_s + GRACE_S))
        if not trip.done():
            for read in reads:
                self._engine.counts.miss(read.key)
            raise DeadlineExceeded(f"reading {len(reads)} of {reads[0].namespace} took too long")

    @staticmethod
    async def _waited(
        reads: Sequence[Read], values: dict[str, Value], rest: Sequence[Coroutine[Any, Any, Value]], batch: Batch
    ) -> list[Value]:
        """Wait for what is not settled: the `rest`, in the order of the reads that have no value."""
        for key in values:
            batch.settled(key)
        if rest:
            missing = [read.key for read in reads if read.key not in values]

            async def one(key: str, value: Awaitable[Value]) -> Value:
                try:
                    return await value
                finally:
                    batch.settled(key)

            try:
                waited = await gathered([one(key, value) for key, value in zip(missing, rest, strict=True)])
            finally:
                for value in rest:
                    value.close()  # of a task that was cancelled before it began
            values.update(zip(missing, waited, strict=True))
        return [values[read.key] for read in reads]


async def _begun(
    begin: Callable[[Read, Found | None, Answer | None], Awaitable[Value]],
    read: Read,
    copy: Found | None,
    answer: Answer | None,
) -> Value:
    return await begin(read, copy, answer)


def _nothing(_key: str) -> Loader:
    return nothing
