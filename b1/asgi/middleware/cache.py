"""Stored answers: a hit ends here, with the bytes and headers of the first answer, before routing and validation.

Acts only on GET and HEAD of routes that declare it, for an established principal or where the route says that its answer
is public. The route's own authorisation (`CacheOptions.allow`) is asked for each caller before anything is served.
"""

from __future__ import annotations

from collections.abc import Awaitable

from b1.asgi.caching.answering import Answering
from b1.asgi.caching.conditional import is_conditional
from b1.asgi.caching.options import ANSWER_LIMIT_BYTES
from b1.asgi.caching.sending import hit_status, pass_by, send_answer
from b1.asgi.caching.service import ResponseCache
from b1.asgi.caching.snapshot import Counts
from b1.asgi.caching.stored import StoredAnswer
from b1.asgi.context import RequestContext
from b1.asgi.reply import send_problem
from b1.cache import L1
from b1.cache.packing.zstandard import Unreadable
from b1.clock import SystemClock
from b1.errors import Forbidden
from b1.types import ASGIApp, Headers, Receive, Scope, Send

STORED_LIMIT_BYTES = ANSWER_LIMIT_BYTES
LayerCounts = Counts


class CacheLayer:
    """The response cache.

    Args:
        responses: the state.
        l1: without `responses`: the map of a cache without a shared store.
        counts: to count into, then.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        responses: ResponseCache | None = None,
        l1: L1 | None = None,
        counts: Counts | None = None,
    ) -> None:
        if responses is None:
            if l1 is None:
                raise TypeError("CacheLayer takes responses")
            responses = ResponseCache(l1, SystemClock(), counts=counts)
        self._app = app
        self._responses = responses

    def __repr__(self) -> str:
        return f"<CacheLayer {self._responses!r}>"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        context: RequestContext | None = scope.get("b1")
        if context is None or context.route.options.cache is None:
            return self._app(scope, receive, send)
        return self._serve(context, scope, receive, send)

    async def _serve(self, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        responses = self._responses
        plan = responses.plan_of(context.route)
        method, fields, principal = scope["method"], context.fields, context.principal
        if method != "GET" and method != "HEAD":
            await pass_by(self._app, scope, receive, send, b"b1; fwd=method")
            return
        if principal is None and not plan.is_public:
            await self._app(scope, receive, send)
            return
        if plan.allow is not None and (principal is None or not plan.allow(principal)):
            await send_problem(send, Forbidden(), scope)
            return
        if b"range" in fields:
            await pass_by(self._app, scope, receive, send, b"b1; fwd=bypass; detail=range")
            return
        key = plan.key(scope, principal, fields)
        found = responses.l1.find(key)
        if found is None or found.is_stale or b"cache-control" in fields or responses.must_validate:
            await Answering(responses, self._app, scope, receive, send, plan, key, found).run()
            return
        # From here on the hottest path of all: what has a function of its own elsewhere is written out.
        answer: StoredAnswer = found.meta
        variant = answer.identity
        if answer.is_compressible or len(answer.variants) > 1:
            preferences = responses.preferences.of(fields.get(b"accept-encoding"))
            if preferences:
                variant = answer.choose(preferences)
                if variant is answer.identity and answer.is_compressible and not answer.is_packing:
                    await Answering(responses, self._app, scope, receive, send, plan, key, found).run()
                    return
        responses.counts.hits += 1
        now_s = responses.now_s()
        try:
            if method == "HEAD" or answer.told is not None or is_conditional(fields):
                status = hit_status(answer, now_s, b"l1")
                await send_answer(send, scope, context, answer, found.value, variant, now_s, status)
                return
            body: bytes = found.value
            if variant.end - variant.start != len(body):
                body = body[variant.start : variant.end]
        except Unreadable:  # nothing was sent, and the entry is gone
            responses.counts.hits -= 1
            await Answering(responses, self._app, scope, receive, send, plan, key, None).run()
            return
        headers: Headers = [
            *variant.head,
            (b"age", b"%d" % (now_s - answer.made_s)),
            (b"cache-status", b"b1; hit; ttl=%d; detail=l1" % (answer.fresh_until_s - now_s)),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
