"""Keeping values: in this process, in the shared store, and for how long; and keeping much read ones longer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

from b1.cache.counts import Counts
from b1.cache.l1.table import L1
from b1.cache.options import CacheOptions
from b1.cache.packing.codec import COLD, EXTENDABLE, RAW
from b1.cache.packing.envelopes import Envelopes
from b1.cache.reading.flights import Flight
from b1.cache.reading.learning import Learning
from b1.cache.reading.reads import Read
from b1.cache.reading.shared import Answer, Shared, State
from b1.cache.reading.tasks import Tasks
from b1.cache.reading.tiers import Heat, comes_home, extended_s, jittered, staying
from b1.cache.reading.values import ERROR, Meta, Value, is_kept_safely, meta_of
from b1.clock import Clock
from b1.types import Versions

# For a value that is stale when it arrives.
_SHORTEST_S = 0.001
# A kept exception: the object, its arguments and its attributes.
_ERROR_BYTES = 512
_NULL = b"null"
# What is larger than this many times the most that Redis gets is not even compressed: 4 MB take half a second of a core.
_BEST_RATIO = 8


class Times(NamedTuple):
    """Of one value, in seconds; `created_ms` is wall time."""

    fresh_s: float
    stale_s: float
    delta_s: float
    created_ms: int


class Keeping:
    """Puts values where they belong."""

    def __init__(
        self,
        l1: L1,
        envelopes: Envelopes,
        learning: Learning,
        tasks: Tasks,
        counts: Counts,
        clock: Clock,
        options: CacheOptions,
        shared: Shared | None,
        *,
        random: Callable[[], float],
    ) -> None:
        self._l1 = l1
        self._envelopes = envelopes
        self._learning = learning
        self._tasks = tasks
        self._counts = counts
        self._clock = clock
        self._options = options
        self._shared = shared
        self._random = random
        self._heat = Heat()

    def __repr__(self) -> str:
        return f"<Keeping {self._l1!r} {self._heat!r}>"

    def keep_here(self, flight: Flight, value: Value, began_s: float, ended_s: float) -> Times | None:
        """Keep a loaded value in this process; None when it is not to be kept anywhere."""
        read = flight.read
        if flight.is_overtaken or len(value.data) > self._options.value_limit_bytes:
            self._counts.refused["changed" if flight.is_overtaken else "too_large"] += 1
            return None
        times = self._times(read, value, ended_s - began_s)
        self._put(read, value, times, flight.built_on, flags=_flags(read, value), is_shared=flight.vector is not None)
        return times

    async def keep(self, read: Read, value: Value, versions: Versions, *, is_shared: bool) -> bool:
        """Keep a value that was not loaded; False when something moved meanwhile, or it is too large."""
        if len(value.data) > self._options.value_limit_bytes:
            self._counts.refused["too_large"] += 1
            return False
        times = self._times(read, value, 0.0)
        kept = self._put(read, value, times, versions, flags=_flags(read, value), is_shared=is_shared)
        if is_shared:
            await self.keep_there(read, value, times, versions.vector)
        return kept

    def keep_error(self, flight: Flight, error: Exception) -> None:
        """Keep an exception that is an answer, in this process alone."""
        read = flight.read
        if flight.is_overtaken or not is_kept_safely(error):
            return
        ttl_s = jittered(read.options.errors_s, read.options.jitter, self._random)
        meta = Meta(0.0, 0.0, int(self._clock.wall() * 1000), ERROR)
        self._l1.put(
            read.name, _bare(error), _ERROR_BYTES, ttl_s=ttl_s, versions=flight.built_on, meta=meta, owner=read.owner
        )

    def take(self, read: Read, answer: Answer) -> Value:
        """Take a value from the shared store; keep it here too if it belongs here."""
        assert answer.head is not None
        head = answer.head
        value = Value(answer.value, head.flags & RAW)
        reads = self._heat.read(read.name, self._clock.monotonic())
        stale_s = min(read.options.stale_s, answer.left_s - answer.fresh_s)
        times = Times(answer.fresh_s, stale_s, head.delta_ms / 1000.0, head.created_ms)
        versions = Versions(read.tags, answer.vector)
        if answer.same_tags and comes_home(head.flags, reads):
            self._put(read, value, times, versions, flags=head.flags, is_shared=True)
        if reads == self._options.promote_reads and answer.state is State.FRESH and answer.same_tags:
            self.extend(read, value, head.flags, times, versions)
        return value

    def extend(self, read: Read, value: Value, flags: int, times: Times, versions: Versions) -> None:
        """Keep a much read value longer; not one whose age was promised, and not what will be fresh for long anyway."""
        now_ms = int(self._clock.wall() * 1000)
        fresh_s = extended_s(flags, times.created_ms, now_ms, read.residence.ttl_s)
        if fresh_s < 2.0 * times.fresh_s:
            return
        times = times._replace(fresh_s=fresh_s)
        is_shared = self._shared is not None and self._shared.is_there
        if self._put(read, value, times, versions, flags=flags, is_shared=is_shared):
            self._counts.promoted += 1
            if is_shared:
                self._tasks.own(self.keep_there(read, value, times, versions.vector), "b1-cache-extend")

    async def keep_there(self, read: Read, value: Value, times: Times, vector: bytes, *, waits: bool = True) -> None:
        """Keep a value in the shared store, unless something moved since its vector was taken.

        Args:
            waits: until the store has answered.
        """
        if self._shared is None or read.residence.tier == "hot":
            return
        if len(value.data) > _BEST_RATIO * self._options.shared_limit_bytes:
            self._counts.refused["too_large"] += 1
            self._shared.give_up(read.place, read.tags, vector)
            return
        self._learning.saw(read.namespace, value.data)
        envelope = await self._envelopes.seal(
            read.name,
            read.namespace,
            value.data,
            read.tags,
            is_raw=bool(value.flags & RAW),
            residence=read.residence,
            created_ms=times.created_ms,
            life_s=times.fresh_s + times.stale_s,
            fresh_s=times.fresh_s,
            delta_s=times.delta_s,
        )
        life_s = times.fresh_s + times.stale_s
        await self._shared.keep(
            read.place, envelope, read.tags, vector, life_s=life_s, fresh_s=times.fresh_s, waits=waits
        )

    def _times(self, read: Read, value: Value, delta_s: float) -> Times:
        options, created_ms = read.options, int(self._clock.wall() * 1000)
        if options.none_s is not None and value.data == _NULL and not value.flags & RAW:
            return Times(jittered(options.none_s, options.jitter, self._random), 0.0, delta_s, created_ms)
        fresh_s = jittered(read.residence.ttl_s, options.jitter, self._random)
        return Times(fresh_s, options.stale_s, delta_s, created_ms)

    def _put(self, read: Read, value: Value, times: Times, versions: Versions, *, flags: int, is_shared: bool) -> bool:
        stay_s = staying(read.residence.tier, times.fresh_s, self._options.local_s, is_shared=is_shared)
        # Where the other copy lives on, what is over here is asked for there: it may be fresh.
        stale_s = times.stale_s if stay_s >= times.fresh_s else 0.0
        early = read.options.early if stay_s >= times.fresh_s else 0.0
        meta = meta_of(self._clock.monotonic() + stay_s, times.delta_s * early, times.created_ms, flags)
        kept = self._l1.put(
            read.name,
            value.data,
            ttl_s=max(_SHORTEST_S, stay_s),
            versions=versions,
            stale_s=stale_s,
            meta=meta,
            owner=read.owner,
        )
        if not kept:
            self._counts.refused["no_room" if self._l1.are_current(versions) else "changed"] += 1
        return kept


def _flags(read: Read, value: Value) -> int:
    return value.flags | COLD * (read.residence.tier == "cold") | EXTENDABLE * read.residence.may_extend


def _bare(error: Exception) -> Exception:
    """Return a copy without the traceback, whose frames would live as long as the entry."""
    bare = copy.copy(error)
    bare.__traceback__ = bare.__cause__ = bare.__context__ = None
    return bare
