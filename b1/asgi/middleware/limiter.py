"""Asks the limiter once, adds its headers to whatever answer follows, or refuses with 429.

What a policy counts at a time is given back when the answer has ended, however it ended.
"""

from __future__ import annotations

from collections.abc import Awaitable

import orjson

from b1.asgi.body import ClientDisconnected, read_body, replay_body
from b1.asgi.caching.service import ResponseCache
from b1.asgi.callers import caller_of
from b1.asgi.context import RequestContext
from b1.asgi.limits import CHARGED, Charged, Limits
from b1.asgi.reply import send_problem
from b1.errors import BodyTooLarge, MalformedRequest, RequestError
from b1.limiter import Decision
from b1.store.base import CacheRead
from b1.types import ASGIApp, Receive, Scope, Send

# Where a scope says what was decided about its request before it came here.
DECIDED = "b1.decided"


class LimiterLayer:
    """Spends before the body is read, except on routes whose class stands in their body.

    Args:
        responses: say what of the shared cache a request wants, which is read on the limiter's own trip.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, responses: ResponseCache | None = None) -> None:
        self._app = app
        self._limits = limits
        self._responses = responses

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        context: RequestContext = scope["b1"]
        options = context.route.options
        is_read = options.cache is not None and self._responses is not None
        if options.classify is not None or is_read or DECIDED in scope:
            return self._serve(context, scope, receive, send)
        # What most requests need: one decision, and nothing to read before or along with it.
        limits = self._limits
        names = limits.of(context, options.limits, scope["method"])
        admitted = limits.admit_now(context, names, scope)
        if admitted is None:
            return self._admitted(context, names, None, scope, receive, send, is_asked=True)
        charged, refusal = admitted
        if refusal is not None:
            return send_problem(send, refusal, scope)
        return self._charged(charged, scope, receive, send)

    async def _serve(self, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        options = context.route.options
        policies = options.limits
        if options.classify is not None and context.principal is not None:
            try:
                policies, receive = await self._classified(context, scope, receive)
            except ClientDisconnected:
                return
            except RequestError as error:
                await send_problem(send, error, scope)
                return
        # Taken out: an application with a profile of its own, mounted inside, decides for itself.
        decided: Decision | None = scope.pop(DECIDED, None)
        if decided is not None and not decided.allowed:
            await send_problem(send, self._limits.refusal(decided), scope)
            return
        names = self._limits.of(context, policies, scope["method"])
        if decided is not None:  # the express way has charged it already
            context.tell(decided, self._limits)
            charged = Charged(names, caller_of(context), scope, "")
            CHARGED.set(charged)
            await self._charged(charged, scope, receive, send)
            return
        read = None
        if options.cache is not None and self._responses is not None:
            read = self._responses.read_for(context, scope)
        await self._admitted(context, names, read, scope, receive, send)

    async def _admitted(
        self,
        context: RequestContext,
        names: tuple[str, ...],
        read: CacheRead | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        is_asked: bool = False,
    ) -> None:
        charged, refusal = await self._limits.admit(context, names, scope, read, is_asked=is_asked)
        context.cached = charged.cached
        if refusal is not None:
            await send_problem(send, refusal, scope)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if charged.is_open:
                await self._limits.end(charged)

    async def _charged(self, charged: Charged, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if charged.is_open:
                await self._limits.end(charged)

    async def _classified(
        self, context: RequestContext, scope: Scope, receive: Receive
    ) -> tuple[tuple[str, ...], Receive]:
        """Read the body to learn the class; what cannot be classed spends the route's own limits and is judged there."""
        options = context.route.options
        fallback = options.limits or ()
        assert options.classify is not None
        try:
            body = await read_body(receive, options.classify_bytes)
        except BodyTooLarge as error:
            refusal = await self._limits.charge(context, fallback, scope)
            raise refusal or error from None
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            refusal = await self._limits.charge(context, fallback, scope)
            raise refusal or MalformedRequest("the body is no JSON document") from None
        policies = options.classify(value) if isinstance(value, dict) else fallback
        return policies or fallback, replay_body(body, receive)
