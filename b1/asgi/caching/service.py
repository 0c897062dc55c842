"""The response cache's state: plans of routes, runs that others wait for, refreshes, and the way to the shared store.

The order that everything rests on: versions first, then the read or the run, then `put`, which compares. An answer that an
invalidation overtook still goes to those who asked before it, and is not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING

from b1.asgi.caching.compression import Preferences
from b1.asgi.caching.encoding import decode_packed, encode, life_ms
from b1.asgi.caching.flights import Flights
from b1.asgi.caching.holding import AnswerMap, Bodies
from b1.asgi.caching.lookup import LOOKUP, Lookup
from b1.asgi.caching.making import Maker
from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.plan import RoutePlan
from b1.asgi.caching.refreshing import Refreshes
from b1.asgi.caching.snapshot import Counts, ResponseCacheSnapshot
from b1.asgi.caching.stored import StoredAnswer
from b1.cache import L1
from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.store.base import CacheAnswer, CacheRead, CacheState
from b1.types import Scope, Versions

if TYPE_CHECKING:
    from b1.asgi.context import RequestContext
    from b1.asgi.routes import Route
    from b1.cache.l1.table import Found
    from b1.store.base import Store

_FIRST_LOOK_S, _LAST_LOOK_S = 0.01, 0.2


class ResponseCache:
    """Owned by the runtime; the layer (`b1.asgi.middleware.cache`) has no state of its own.

    Args:
        l1: the map; shared with the data cache.
        store: the shared store; None, or one without Redis: there is no second copy.
        may_refresh: says whether work in the background is welcome now; under pressure it is not.
        counts: to count into.
    """

    def __init__(
        self,
        l1: L1,
        clock: Clock,
        *,
        store: Store | None = None,
        options: ResponseCacheOptions | None = None,
        may_refresh: Callable[[], bool] = lambda: True,
        counts: Counts | None = None,
    ) -> None:
        self.options = options or ResponseCacheOptions()
        self.l1 = AnswerMap(l1, clock, self.options.hold)
        self.counts = counts or Counts()
        self.maker = Maker(self.options)
        self.preferences = Preferences()
        self.flights = Flights(self.options.waiters)
        self.now_s = clock.monotonic
        self.wall_s = clock.wall
        self._store = store
        self.refreshes = Refreshes(self, may_refresh)
        self._plans: dict[Route, RoutePlan] = {}  # bounded: a table makes its routes once
        self._writing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        counts = self.counts
        return (
            f"<ResponseCache hits={counts.hits} misses={counts.misses} running={len(self.flights)} "
            f"refreshing={len(self.refreshes)}>"
        )

    # Compatible with the counters that the health report reads.

    @property
    def hits(self) -> int:
        """Requests answered without the handler."""
        return self.counts.hits

    @property
    def misses(self) -> int:
        """Requests for which a handler ran or was waited for."""
        return self.counts.misses

    def prepare(self, routes: Iterable[Route]) -> None:
        """Make the plans of all routes that declare a cache, so that a wrong one stops the start.

        Raises:
            ConfigurationError: a tag names what the route does not have.
        """
        for route in routes:
            if route.options.cache is not None:
                self.plan_of(route)

    def plan_of(self, route: Route) -> RoutePlan:
        """Return the plan of a route that declares a cache."""
        plan = self._plans.get(route)
        if plan is None:
            assert route.options.cache is not None
            plan = self._plans[route] = RoutePlan(route, route.options.cache, self.options)
        return plan

    async def aclose(self) -> None:
        """Cancel what runs in the background, wait for it, and let those who wait for a handler go on by themselves."""
        self._is_closed = True
        self.flights.close()
        await self.refreshes.aclose()
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    def snapshot(self) -> ResponseCacheSnapshot:
        """Return numbers; no I/O."""
        counts, compressor = vars(self.counts), self.maker.compressor
        return ResponseCacheSnapshot(
            **{**counts, "unstorable": dict(self.counts.unstorable)},
            routes=len(self._plans),
            running=len(self.flights),
            waiting=self.flights.waiting,
            refreshing=len(self.refreshes),
            writing=len(self._writing),
            compressed=(compressor.done, compressor.before_bytes, compressor.after_bytes),
            tags_left_out=self.maker.tags_left_out,
            held=self.l1.holding(),
        )

    # Asking

    @property
    def is_shared(self) -> bool:
        """Whether there is a second copy, in Redis, right now."""
        return self._store is not None and self._store.mode == "redis"

    @property
    def must_validate(self) -> bool:
        """Whether a copy of ours may be older than what another process invalidated: the server does not push in order."""
        store = self._store
        return store is not None and store.mode == "redis" and not store.versions.is_exact

    def read_for(self, context: RequestContext, scope: Scope) -> CacheRead | None:
        """Say what the limiter should read on its own trip, so that this request needs no second one.

        Put the answer into ``context.cached``. None: nothing, because the answer is here, or the request has none.
        """
        route = context.route
        if route.options.cache is None or scope["method"] != "GET" or not self.is_shared:
            return None
        plan, principal = self.plan_of(route), context.principal
        if principal is None and not plan.is_public:
            return None
        if plan.allow is not None and (principal is None or not plan.allow(principal)):
            return None
        if b"range" in context.fields:
            return None
        lookup = self.look_up(plan, context, scope)
        if lookup is None or (lookup.found is not None and not lookup.found.is_stale and not self.must_validate):
            return None
        if self.flights.find(lookup.flight) is not None:
            return None
        scope[LOOKUP] = lookup
        return self.read_of(lookup)

    def look_up(
        self, plan: RoutePlan, context: RequestContext, scope: Scope, key: str | None = None, found: Found | None = None
    ) -> Lookup | None:
        """Return the question of a request, with the versions of this moment; None: it has no name that could be kept."""
        principal = context.principal
        if key is None:
            key = plan.key(scope, principal, context.fields)
            found = self.l1.find(key)
        if len(key) > self.options.key_limit_bytes:
            return None
        try:
            tags = plan.tags(context, scope["path"])
        except ValueError:
            return None
        return Lookup(plan, key, plan.tenant(principal), self.l1.versions_of(tags), found)

    def read_of(self, lookup: Lookup) -> CacheRead:
        """Return what is asked of the shared store."""
        found = lookup.found
        held = found.meta.vector if found is not None and self.must_validate else None
        return CacheRead(lookup.shared_key, lookup.versions.tags, self.options.lease_ms, held)

    async def ask(self, lookup: Lookup) -> CacheAnswer | None:
        """Read the shared store, one trip; None without one."""
        if self._store is None or not self.is_shared:
            return None
        try:
            return (await self._store.enter((), read=self.read_of(lookup))).cache
        except StoreUnavailable:
            return None  # counted by the store; the handler answers

    async def ask_again(self, lookup: Lookup, answer: CacheAnswer, limit_s: float) -> CacheAnswer | None:
        """Wait while another process runs the handler; return what there is then, or the last answer."""
        until_s, pause_s = self.now_s() + limit_s, _FIRST_LOOK_S
        found: CacheAnswer | None = answer
        while found is not None and found.state is CacheState.LOADING and self.now_s() < until_s:
            await asyncio.sleep(min(pause_s, max(0.0, until_s - self.now_s())))
            pause_s = min(2 * pause_s, _LAST_LOOK_S)
            found = await self.ask(lookup)
        return found

    def note(self, lookup: Lookup, answer: CacheAnswer) -> None:
        """Remember what the shared store said, for the run that follows."""
        lookup.vector = answer.vector
        lookup.has_lease = answer.state is CacheState.LEASED or answer.has_lease

    def unpack(self, lookup: Lookup, answer: CacheAnswer) -> tuple[StoredAnswer, bytes] | None:
        """Return the answer that the shared store has, and keep a copy here when it is current."""
        if answer.value is None:
            return None
        decoded = decode_packed(lookup.key, answer.value, answer.left_ms, self.now_s(), self.maker.pairs)
        if decoded is None:
            self.counts.damaged += 1
            return None
        stored, body, frame = decoded
        if answer.state is CacheState.HIT:
            stored.vector = answer.vector
            if frame is None:
                frame = self.l1.frame_of(stored, body)
            elif not self.l1.pays(frame, len(body)):
                frame = None
            self._put(lookup, stored, body, frame)
        return stored, body

    # Keeping

    def keep(self, lookup: Lookup, answer: StoredAnswer, body: bytes) -> bool:
        """Keep an answer here and in the shared store; say whether it is kept here."""
        answer.vector = lookup.vector
        frame = self.l1.frame_of(answer, body)
        is_kept = self._put(lookup, answer, body, frame)
        self.counts.stored += is_kept
        if lookup.vector is not None and self.is_shared:
            now_s = self.now_s()
            data = encode(lookup.key, answer, body, now_s, frame)
            if len(data) <= self.options.shared_limit_bytes:
                lookup.has_lease = False  # ends with the write
                fresh_ms = max(1, int((answer.fresh_until_s - now_s) * 1000))
                self._write(lookup, lookup.vector, data, life_ms(answer, now_s), fresh_ms)
            else:
                self.give_up(lookup)
        return is_kept

    def give_up(self, lookup: Lookup) -> None:
        """End the lease of a run that made nothing, so that the next one may run."""
        if lookup.has_lease and lookup.vector is not None and self._store is not None:
            lookup.has_lease = False
            self._write(lookup, lookup.vector, None, 1, None)

    async def add_variant(self, key: str, owner: str, found: Found, encoding: bytes) -> tuple[StoredAnswer, bytes]:
        """Compress a kept answer for the first client that wants it so, and keep that too."""
        answer: StoredAnswer = found.meta
        answer.is_packing = True
        try:
            built_on = self.l1.built_on(key)
            more, body, frame = answer.copy(), found.value, None
            if isinstance(found.value, Bodies):
                body, frame = found.value.bodies(), found.value.frame()
            body = await self.maker.pack(more, body, encoding)
        finally:
            answer.is_packing = False
        present = self.l1.find(key)
        if present is None or present.meta.identity is not answer.identity:
            return more, body  # it has gone meanwhile, or a newer one came, which stays
        if not more.is_compressible or built_on is None or not self._put_at(key, owner, more, body, built_on, frame):
            answer.is_compressible = False  # it did not pay, or cannot be kept: nobody tries again
        return more, body

    def _put(self, lookup: Lookup, answer: StoredAnswer, body: bytes, frame: bytes | None) -> bool:
        versions, store = lookup.versions, self._store
        if lookup.vector is not None and store is not None and store.versions.is_exact:
            versions = Versions(versions.tags, lookup.vector)  # older than ours, if a push came in between
        return self._put_at(lookup.key, lookup.owner, answer, body, versions, frame)

    def _put_at(
        self, key: str, owner: str, answer: StoredAnswer, body: bytes, versions: Versions, frame: bytes | None
    ) -> bool:
        fresh_until_s = answer.fresh_until_s
        return self.l1.keep(
            key,
            answer,
            body,
            frame=frame,
            ttl_s=fresh_until_s - self.now_s(),
            versions=versions,
            stale_s=max(answer.stale_until_s, answer.error_until_s, fresh_until_s) - fresh_until_s,
            owner=owner,
        )

    def _write(self, lookup: Lookup, vector: bytes, data: bytes | None, ttl_ms: int, fresh_ms: int | None) -> None:
        """Send an answer to the shared store, or give its lease up, in a task of ours: no request waits for it."""
        if len(self._writing) >= self.options.writes or self._is_closed:
            self.counts.writes_skipped += 1  # the lease runs out by itself
            return
        work = self._written(lookup, vector, data, ttl_ms, fresh_ms)
        task = asyncio.get_running_loop().create_task(work, name="b1-answer-write", context=Context())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _written(
        self, lookup: Lookup, vector: bytes, data: bytes | None, ttl_ms: int, fresh_ms: int | None
    ) -> None:
        assert self._store is not None
        with suppress(StoreUnavailable):  # counted by the store; the next miss runs the handler again
            await self._store.store_if_unchanged(
                lookup.shared_key, data, tags=lookup.versions.tags, vector=vector, ttl_ms=ttl_ms, fresh_ms=fresh_ms
            )

    def count_unstorable(self, reason: str) -> None:
        """Count an answer that was not kept."""
        self.counts.unstorable[reason] += 1
