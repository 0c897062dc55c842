"""What happens to a request that is no plain hit: a stale answer, the shared store, somebody else's run, or the handler.

The order is that of what each costs: nothing, a copy, one trip, a wait, the handler's work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from b1.asgi.caching.directives import Directives
from b1.asgi.caching.flights import Flight, Landing
from b1.asgi.caching.load import Load
from b1.asgi.caching.lookup import LOOKUP, Lookup
from b1.asgi.caching.sending import hit_status, pass_by, send_answer, send_not_stored
from b1.asgi.caching.stored import StoredAnswer
from b1.cache.l1.table import Found
from b1.cache.packing.zstandard import Unreadable
from b1.store.base import CacheAnswer, CacheState

if TYPE_CHECKING:
    from b1.asgi.caching.plan import RoutePlan
    from b1.asgi.caching.service import ResponseCache
    from b1.asgi.context import RequestContext
    from b1.types import ASGIApp, Receive, Scope, Send

_NO_DIRECTIVES = Directives(())


class Answering:
    """One request that the layer could not answer at once.

    Args:
        app: what is below the cache.
        found: what the in-process cache has under the key; fresh or stale. What turns out to be damaged is none.
    """

    def __init__(
        self,
        responses: ResponseCache,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        plan: RoutePlan,
        key: str,
        found: Found | None,
    ) -> None:
        self._responses = responses
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._plan = plan
        self._key = key
        self._found = found
        self._context: RequestContext = scope["b1"]
        self._control = self._request_control()
        self._flight: Flight | None = None

    async def run(self) -> None:
        """Answer the request."""
        try:
            await self._answer(self._found)
        except Unreadable:  # before anything was sent; the entry is gone
            self._responses.counts.hits -= 1
            await self._answer(None)

    async def _answer(self, found: Found | None) -> None:
        responses, now_s = self._responses, self._responses.now_s()
        if found is not None and self._wants_newer(found.meta, now_s):
            found = None
        if found is not None and not found.is_stale and not responses.must_validate:
            await self._serve(found, b"l1")
            return
        lookup: Lookup | None = self._scope.pop(LOOKUP, None)
        if lookup is None or lookup.key != self._key:
            lookup = responses.look_up(self._plan, self._context, self._scope, self._key, found)
        if lookup is None:
            await pass_by(self._app, self._scope, self._receive, self._send, b"b1; fwd=bypass; detail=key")
            return
        lookup.found = found
        told: CacheAnswer | None = getattr(self._context, "cached", None)
        if told is None and responses.must_validate:
            # Where the server does not push, our own versions tell nothing: neither which copy is current, nor which run.
            told = await responses.ask(lookup)
        if told is not None:
            if responses.must_validate and told.state is not CacheState.CURRENT:
                lookup.found = None  # not even when the handler fails: it may have been invalidated for good
            if await self._use(lookup, told):
                return
        found = lookup.found
        if found is not None and not responses.must_validate:
            if not found.is_stale:
                await self._serve(found, b"l1")  # Redis has just gone: what is here is valid for a while
                return
            if await self._served_stale(lookup, found):
                return
        await self._miss(lookup, told)

    # What is here

    async def _serve(self, found: Found, detail: bytes) -> None:
        """Send what is kept, in the encoding that the client prefers, which may have to be made first."""
        responses, context = self._responses, self._context
        responses.counts.hits += 1
        answer, body = found.meta, found.value
        preferences = self._preferences()
        variant = answer.choose(preferences)
        is_wanting = bool(preferences) and variant is answer.identity and answer.is_compressible
        if is_wanting and not answer.is_packing and not found.is_stale:  # a stale one is about to be replaced
            owner = self._plan.tenant(context.principal)
            answer, body = await responses.add_variant(self._key, owner, found, preferences[0])
            variant = answer.choose(preferences)
        now_s = responses.now_s()
        status = hit_status(answer, now_s, detail)
        await send_answer(self._send, self._scope, context, answer, body, variant, now_s, status)

    async def _served_stale(self, lookup: Lookup, found: Found) -> bool:
        """Serve a stale answer while it is refreshed, or while the handler is known to fail."""
        responses, answer, now_s = self._responses, found.meta, self._responses.now_s()
        if answer.stale_until_s > max(now_s, answer.fresh_until_s):
            responses.counts.stale_hits += 1
            responses.refreshes.begin(lookup, self._app, self._scope, self._context)
            await self._serve(found, b"stale")
            return True
        if answer.error_until_s > now_s and responses.refreshes.is_paused(self._key):
            responses.counts.stale_errors += 1
            await self._serve(found, b"stale-if-error")
            return True
        return False

    # What is elsewhere

    async def _use(self, lookup: Lookup, told: CacheAnswer) -> bool:
        """Serve what the shared store says, if it says enough."""
        responses = self._responses
        responses.note(lookup, told)
        if told.state is CacheState.CURRENT and lookup.found is not None:
            if lookup.found.is_stale:
                return await self._served_stale(lookup, lookup.found)
            await self._serve(lookup.found, b"l1")
            return True
        unpacked = responses.unpack(lookup, told)
        if unpacked is None:
            return False
        stored, body = unpacked
        found = lookup.found = Found(body, stored, told.state is CacheState.STALE, stored.fresh_until_s)
        if self._wants_newer(stored, responses.now_s()):
            return False
        if found.is_stale:
            if not await self._served_stale(lookup, found):
                return False
        else:
            await self._serve(found, b"l2")
        responses.counts.shared_hits += 1
        self._land((stored, body))
        return True

    async def _miss(self, lookup: Lookup, told: CacheAnswer | None) -> None:
        responses = self._responses
        if b"only-if-cached" in self._control:
            if told is None:
                told = await responses.ask(lookup)
                if told is not None and await self._use(lookup, told):
                    return
            responses.give_up(lookup)
            await send_not_stored(self._send, self._scope, self._context)
            return
        refusal = self._refusal()
        if refusal is not None:
            await self._load(lookup, refusal)
        elif not await self._joined(lookup):
            await self._lead(lookup, told)

    async def _joined(self, lookup: Lookup) -> bool:
        """Wait for a run of the same and serve its answer; else become the run that others wait for, or run alone."""
        responses = self._responses
        flights, name = responses.flights, lookup.flight
        until_s = responses.now_s() + responses.options.wait_s
        while not flights.is_alone(self._key, responses.now_s()):
            flight = flights.find(name)
            if flight is None:
                self._flight = flights.begin(name)
                return False
            landed = await flights.wait(flight, until_s - responses.now_s())
            if isinstance(landed, tuple):
                responses.give_up(lookup)
                await self._send_collapsed(*landed)
                return True
            if landed is not Landing.AGAIN:
                return False
        return False

    async def _lead(self, lookup: Lookup, told: CacheAnswer | None) -> None:
        """Look into the shared store if that was not done, and run the handler."""
        responses = self._responses
        try:
            if told is None:
                told = await responses.ask(lookup)
                if told is not None and await self._use(lookup, told):
                    return
            if told is not None and told.state is CacheState.LOADING:
                told = await responses.ask_again(lookup, told, responses.options.wait_s)
                if told is not None and await self._use(lookup, told):
                    return
            await self._load(lookup, None)
        finally:
            self._land(Landing.AGAIN)

    async def _load(self, lookup: Lookup, refusal: str | None) -> None:
        self._responses.counts.misses += 1
        load = Load(
            self._responses,
            lookup,
            self._scope,
            self._context,
            self._send,
            flight=self._flight,
            refusal=refusal,
            status=b"b1; fwd=uri-miss" if lookup.found is None else b"b1; fwd=stale",
        )
        await load.run(self._app, self._receive)

    async def _send_collapsed(self, answer: StoredAnswer, body: bytes) -> None:
        responses = self._responses
        responses.counts.misses += 1
        responses.counts.collapsed += 1
        variant, now_s = answer.choose(self._preferences()), responses.now_s()
        status = b"b1; fwd=uri-miss; collapsed"
        await send_answer(
            self._send, self._scope, self._context, answer, body, variant, now_s, status, is_reused=False
        )  # fmt: skip

    def _land(self, how: tuple[StoredAnswer, bytes] | Landing) -> None:
        if self._flight is not None:
            self._flight.land(how)

    # What the request says

    def _preferences(self) -> tuple[bytes, ...]:
        return self._responses.preferences.of(self._context.fields.get(b"accept-encoding"))

    def _request_control(self) -> Directives:
        if b"cache-control" not in self._context.fields:
            return _NO_DIRECTIVES
        return Directives(value for name, value in self._scope["headers"] if name == b"cache-control")

    def _refusal(self) -> str | None:
        """Say why the answer to this request may not be kept."""
        if b"no-store" in self._control:
            return "request"
        return "method" if self._scope["method"] == "HEAD" else None

    def _wants_newer(self, answer: StoredAnswer, now_s: float) -> bool:
        """Say whether the client may ask, and asks, for something newer than what is kept."""
        control = self._control
        if not control or not self._plan.options.obey_no_cache:
            return False
        if b"no-cache" in control:
            return True
        most_s, least_s = control.seconds(b"max-age"), control.seconds(b"min-fresh")
        if most_s is not None and now_s - answer.made_s >= most_s:
            return True
        return least_s is not None and answer.fresh_until_s - now_s < least_s
