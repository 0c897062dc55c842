"""Stored answers: a hit ends here, with the bytes and headers of the first answer, before routing and validation.

Acts only on GETs that declare it and for an established principal. The route's own authorisation (`CacheOptions.allow`)
is asked for each caller before a stored answer is served.
"""

from __future__ import annotations

from b1.asgi.context import RequestContext
from b1.asgi.options import CacheOptions
from b1.asgi.reply import send_problem
from b1.buffers import exact
from b1.cache import L1
from b1.errors import Forbidden
from b1.types import ASGIApp, Headers, Message, Principal, Receive, Scope, Send

STORED_LIMIT_BYTES = 256 * 1024
_NEVER_STORED = frozenset({b"set-cookie", b"x-request-id", b"date", b"connection"})
_HIT = (b"cache-status", b"b1; hit")
_MISS = (b"cache-status", b"b1; fwd=miss")


class StoredAnswer:
    """Status is always 200; headers and body as they left the application."""

    __slots__ = ("body", "headers")

    def __init__(self, headers: Headers, body: bytes) -> None:
        self.headers = headers
        self.body = body


class LayerCounts:
    """How often the layer had an answer; owned by the runtime, because middlewares hold no state."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0


class CacheLayer:
    """The response cache."""

    def __init__(self, app: ASGIApp, *, l1: L1, counts: LayerCounts) -> None:
        self._app = app
        self._l1 = l1
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext | None = scope.get("b1")
        options = context.route.options.cache if context is not None else None
        if options is None or context is None or context.principal is None or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        if options.allow is not None and not options.allow(context.principal):
            await send_problem(send, Forbidden(), scope)
            return
        key = _key(context, options, scope)
        entry = self._l1.get(key)
        if entry is not None:
            self._counts.hits += 1
            stored: StoredAnswer = entry.value
            await send({"type": "http.response.start", "status": 200, "headers": [*stored.headers, _HIT]})
            await send({"type": "http.response.body", "body": stored.body})
            return
        self._counts.misses += 1
        await self._load(key, options, context.principal, scope, receive, send)

    async def _load(
        self, key: str, options: CacheOptions, principal: Principal, scope: Scope, receive: Receive, send: Send
    ) -> None:
        versions = self._l1.versions_of(_tags(options, principal))
        headers: Headers | None = None
        chunks: list[bytes] = []
        held_bytes = 0

        async def storing(message: Message) -> None:
            nonlocal headers, held_bytes
            if message["type"] == "http.response.start":
                headers = _storable_headers(message)
                message = {**message, "headers": [*message.get("headers", ()), _MISS]}
            elif headers is not None:
                body = message.get("body", b"")
                held_bytes += len(body)
                if held_bytes > STORED_LIMIT_BYTES:
                    headers = None
                    chunks.clear()
                else:
                    chunks.append(body)
                    if not message.get("more_body", False):
                        answer = StoredAnswer(headers, exact(b"".join(chunks)))
                        self._l1.put(
                            key, answer, held_bytes + _headers_bytes(headers), ttl_s=options.ttl_s, versions=versions
                        )
            await send(message)

        await self._app(scope, receive, storing)


def _key(context: RequestContext, options: CacheOptions, scope: Scope) -> str:
    principal = context.principal
    assert principal is not None
    # Callers without an organisation are not one organisation: each is alone.
    is_shared = options.vary == "organization" and principal.organization is not None
    owner = principal.organization if is_shared else f"{principal.organization or ''}\0{principal.actor}"
    query: bytes = scope["query_string"]
    return f"answer:{scope['path']}\0{owner}\0{query.decode('latin-1')}"


def _tags(options: CacheOptions, principal: Principal) -> list[str]:
    return [tag.format(organization=principal.organization, actor=principal.actor) for tag in options.tags]


def _storable_headers(message: Message) -> Headers | None:
    headers: Headers = list(message.get("headers", ()))
    if message["status"] != 200 or any(name == b"set-cookie" for name, _ in headers):
        return None
    return [(name, value) for name, value in headers if name not in _NEVER_STORED]


def _headers_bytes(headers: Headers) -> int:
    return sum(len(name) + len(value) + 120 for name, value in headers)
