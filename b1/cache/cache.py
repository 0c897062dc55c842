"""The data cache: get or load, and never what was invalidated.

A load that an invalidation overtook still answers the callers that began before it, but its value is not stored. The same
key carries the same tags wherever it is read: a copy knows the tags that it was put with.
"""

from __future__ import annotations

import random as randomness
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, Unpack

import orjson

from b1.cache.counts import CacheSnapshot
from b1.cache.decorating import memoized
from b1.cache.how import How
from b1.cache.invalidating import Followed, Invalidation, Invalidations
from b1.cache.l1.table import L1, Found
from b1.cache.names import entry_name, tags_to_invalidate
from b1.cache.options import CacheOptions
from b1.cache.reading.engine import Engine
from b1.cache.reading.holding import ValueMap
from b1.cache.reading.many import ManyLoader, distinct
from b1.cache.reading.reads import Loader, Reads, nothing
from b1.cache.reading.shared import CacheStore, Shared
from b1.cache.reading.together import Together
from b1.cache.reading.values import ERROR, Value, decode, encode
from b1.clock import Clock

T = TypeVar("T")
Decode = Callable[[bytes], Any]


class Cache:
    """Get-or-load over `L1` and the shared store.

    Args:
        l1: the map; shared with the response cache. Its versions are the store's, where there is a store.
        store: where Redis is, the second copy and the lease between hosts; None: this process alone.
        limit_bytes: of `l1`, for the snapshot.
        enabled: False loads every time and stores nothing.
        load_wait_s: in place of the options' `hard_timeout_s`.
        must_not_wait: says whether the caller holds a database lease. Such a caller loads for itself, in its own task
            and lease: the shared load it would wait for may be waiting for that very lease. What it loads is not
            stored, because its transaction may still be rolled back.
        is_saturated: says whether the database has more to do than it can; stale values are then preferred to waiting.
        background: entered around a load for nobody who waits.
        random: 0 up to 1.
        purging: told of what the application invalidates, for the CDN in front.
    """

    def __init__(
        self,
        l1: L1,
        clock: Clock,
        *,
        store: CacheStore | None = None,
        limit_bytes: int,
        options: CacheOptions | None = None,
        enabled: bool = True,
        load_wait_s: float | None = None,
        must_not_wait: Callable[[], bool] = lambda: False,
        is_saturated: Callable[[], bool] = lambda: False,
        background: Callable[[], AbstractContextManager[object]] = nullcontext,
        random: Callable[[], float] = randomness.random,
        purging: Followed | None = None,
    ) -> None:
        self.enabled = enabled
        self.options = options = options or CacheOptions()
        self.l1 = l1 = ValueMap(l1, clock, options.hold)
        self._find = l1.find
        self._store = store
        self._limit_bytes = limit_bytes
        self._must_not_wait = must_not_wait
        self._engine = Engine(
            l1, clock, options, store, is_saturated=is_saturated, background=background, random=random
        )
        self._reads = Reads(options, load_wait_s or options.hard_timeout_s)
        self._together = Together(l1.find, self._engine, self._reads, clock, must_not_wait=must_not_wait)
        self._clock = clock
        self._counts = self._engine.counts
        self._shared = self._engine.shared
        self._purging = purging
        self._invalidations: Invalidations | None = None
        if store is not None and self._shared is not None:
            self._invalidations = Invalidations(
                store, lambda _: self._counts.error("store"), max(1.0, 5 * options.store_timeout_s)
            )

    def __repr__(self) -> str:
        return f"<Cache entries={len(self.l1)} hits={self._counts.hits} misses={self._counts.misses} {self._engine!r}>"

    # Reading

    async def get_or_load(
        self,
        key: str,
        loader: Callable[[], Awaitable[T]],
        *,
        organization: str | None = None,
        type: Decode | None = None,
        **how: Unpack[How],
    ) -> T:
        """Return the cached value, or load it once however many ask.

        Values are stored as JSON bytes, or as they are when they are bytes, and parsed for each caller: nobody can
        change what another one reads, and all get the same (lists where the loader returned tuples).

        Args:
            organization: whose value it is. The same key of two organisations is two entries.
            type: makes the caller's type of the bytes, such as ``TypeAdapter(Account).validate_json``.
            how: lifetime, tags and options; see `How`.

        Raises:
            DeadlineExceeded: the load took longer than its timeout, or than the request's deadline allows.
            Overloaded: too many loads are under way.
            NotReady: the cache is closed.
            TypeError: the loaded value is no JSON value.
            ValueError: a key, tag, time or tier that is none.
            Exception: what the loader raised, if nothing stale may be served.
        """
        if not self.enabled:
            return await loader()
        found = self._find(key if organization is None else entry_name(key, organization))
        if found is not None and not found.is_stale and (self._shared is None or not self._shared.must_ask):
            self._counts.l1_hits += 1
            self._counts.hit(key)
            if found.meta is None:
                value = found.value
                return orjson.loads(value) if type is None else type(value)  # type: ignore[no-any-return]
            self._attend(found, key, loader, organization, how)
            return decode(Value(found.value, found.meta.flags), type)  # type: ignore[no-any-return]
        read = self._reads.one(key, loader, organization, how)
        if self._must_not_wait():
            self._counts.miss(key)
            self._counts.refused["lease"] += 1
            return await loader()
        return decode(await self._engine.value(read, found), type)  # type: ignore[no-any-return]

    async def wrap(self, key: str, loader: Callable[[], Awaitable[T]], ttl: float | str = "warm", **more: Any) -> T:
        """Do what `get_or_load` does."""
        return await self.get_or_load(key, loader, ttl=ttl, **more)

    async def get(
        self,
        key: str,
        default: Any = None,
        *,
        tags: Sequence[str] = (),
        organization: str | None = None,
        type: Decode | None = None,
    ) -> Any:
        """Return the value if it is there and fresh, else `default`; nothing is loaded."""
        read = self._reads.one(key, nothing, organization, {"tags": tags})
        if not self.enabled:
            return default
        found = self._find(read.name)
        value = await self._engine.present(read, None if found is None or found.is_stale else found)
        (self._counts.miss if value is None else self._counts.hit)(key)
        return default if value is None else decode(value, type)

    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        organization: str | None = None,
        type: Decode | None = None,
        **how: Unpack[How],
    ) -> dict[str, Any]:
        """Return the values of many keys; `loader` is called once with those that are missing.

        Without a loader missing keys are left out. With one each key is in the answer: None for what it did not return,
        which is kept like any other value.

        Raises:
            ValueError: there are more than 1000 keys.
            Exception: as `get_or_load`; nothing is returned then.
        """
        if not self.enabled:
            missing = distinct(keys)
            loaded = {} if loader is None else await loader(missing)
            return {} if loader is None else {key: loaded.get(key) for key in missing}
        return await self._together.get(keys, loader, organization, type, how)

    def cached(
        self,
        key: str | Callable[..., str],
        *,
        tags: Sequence[str] = (),
        organization: str | None = None,
        **how: Any,
    ) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
        """Cache a coroutine function's answers: ``@cache.cached("report:{report_id}", ttl="cold")``.

        Args:
            key: a template with the function's parameters, or a function of its arguments. Arguments are quoted, so
                that none can name another one's entry.
            tags: templates too.
            organization: a template too, such as ``"{organization}"``.
            how: as for `get_or_load`.

        Raises:
            ValueError: a template names something that is no parameter.
        """
        return memoized(lambda: self, key, tags=tags, organization=organization, **how)

    # Writing

    async def set(self, key: str, value: Any, *, organization: str | None = None, **how: Unpack[How]) -> bool:
        """Put a value in place of what is there, for everybody; say whether it was kept.

        For what the caller has just committed. Two writers may arrive here in another order than they committed: where
        that can be, invalidate and let the next reader load.

        Raises:
            TypeError: it is no JSON value.
            ValueError: a key, tag, time or tier that is none.
        """
        read = self._reads.one(key, nothing, organization, how)
        encoded = encode(value)
        if not self.enabled:
            return False
        await self.invalidate(keys=(key,), organization=organization, purge=False)  # no answer is under the data's keys
        return await self._engine.replace(read, encoded)

    def delete(self, key: str, *, organization: str | None = None, purge: bool = True) -> Invalidation:
        """Invalidate one key."""
        return self.invalidate(keys=(key,), organization=organization, purge=purge)

    def invalidate(
        self,
        tags: Iterable[str] = (),
        *,
        keys: Iterable[str] = (),
        prefixes: Iterable[str] = (),
        organization: str | None = None,
        everything: bool = False,
        soft: bool = False,
        purge: bool = True,
    ) -> Invalidation:
        """Make stale all that carries one of the names, also what is being loaded. Call it after the commit.

        It has taken effect in this process when the call returns. Awaited, no later read anywhere gives the older value;
        nobody has to await it. While Redis is away the store owes it what was invalidated (docs/explanation/cache.md).

        Args:
            keys, prefixes: of `organization`, where one is given. A prefix is whole parts: "user:7" is no prefix of
                "user:70:name".
            organization: without keys and prefixes: all that belongs to it.
            everything: all there is.
            soft: what allows stale values may serve the older one while somebody loads it anew.
            purge: have the CDN in front purge it too, in the background, when all processes know.

        Raises:
            ValueError: a name is none, there are more than 1024, or everything should be invalidated softly.
            RuntimeError: no event loop runs, and there is a shared store.
        """
        if everything and soft:
            raise ValueError("everything is invalidated hard: name tags or prefixes to do it softly")
        names = tags_to_invalidate(tags, keys=keys, prefixes=prefixes, organization=organization)
        hard, softly = ((), names) if soft else (names, ())
        done = self._invalidate_everything() if everything else self.invalidate_names(hard, softly)
        if purge and self._purging is not None:
            self._purging.follow(done, None if everything else hard, softly)
        return done

    def invalidate_names(self, hard: Iterable[str], soft: Iterable[str] = ()) -> Invalidation:
        """Do what `invalidate` does with names that are tags already (`b1.cache.intents.rules`), hard and soft in one call.

        No CDN is told: who has names (intents, the identity) sees to that by itself.

        Raises:
            RuntimeError: no event loop runs, and there is a shared store.
        """
        hard, soft = tuple(hard), tuple(soft)
        if hard:
            self._engine.flights.overtake(set(hard))
        self.l1.invalidate((*hard, *soft))  # its own table, where there is no store
        if self._store is not None:
            self._store.invalidate_here(hard, soft=soft)
        if self._invalidations is None or not (hard or soft):
            return Invalidation()
        if soft:
            self._invalidations.add(soft, soft=True)
        return self._invalidations.add(hard, soft=False)  # they travel together

    def _invalidate_everything(self) -> Invalidation:
        self._engine.flights.overtake(None)
        self.l1.clear()
        if self._store is not None:
            self._store.invalidate_here(None)
        return Invalidation() if self._invalidations is None else self._invalidations.add(None, soft=False)

    @property
    def shared(self) -> Shared | None:
        """The copies in the shared store; None without one."""
        return self._shared

    async def aclose(self) -> None:
        """End the loads that are still running, deliver invalidations that are under way, end all other work."""
        await self._engine.flights.aclose()
        if self._invalidations is not None:
            await self._invalidations.aclose()
        await self._engine.aclose()

    def snapshot(self) -> CacheSnapshot:
        """Return numbers; no I/O."""
        return self._counts.snapshot(
            enabled=self.enabled,
            entries=len(self.l1),
            held_bytes=self.l1.held_bytes(),
            limit_bytes=self._limit_bytes,
            loads_running=len(self._engine.flights),
            evictions=dict(self.l1.evictions),
            ceiling_bytes=self.l1.ceiling_bytes,
            invalidations_pending=0 if self._invalidations is None else self._invalidations.pending,
            dictionaries=len(self._engine.learning),
            held=self.l1.holding(),
        )

    def _attend(self, found: Found, key: str, loader: Loader, organization: str | None, how: How) -> None:
        """Look after a value that was just read, when there may be something to do."""
        meta = found.meta
        meta.reads += 1
        if meta.flags & ERROR or self._must_not_wait():
            return
        if meta.reads == self.options.promote_reads or meta.early_from_s <= self._clock.monotonic():
            self._engine.attend(self._reads.one(key, loader, organization, how), found)
