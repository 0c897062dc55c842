"""The profile's own endpoints, answered before anything can refuse them: probes, health, metrics, stats, the page.

In production everything but the probes needs the admin token. More than 1000 requests a minute from one address get the
last rendered answer instead of a new one: a probe is never refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from b1.asgi.context import RequestContext
from b1.asgi.endpoints.health import Health
from b1.asgi.reply import JSON_TYPE, problem, send_bytes, send_problem, send_problem_document
from b1.errors import Unauthenticated
from b1.settings import Secret
from b1.types import ASGIApp, Receive, Scope, Send

# (status, content type, body)
Answer = tuple[int, bytes, bytes]
_READING = frozenset({"GET", "HEAD"})
_INTERNAL = "/internal/"
_NO_STORE = [(b"cache-control", b"no-store")]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the profile.

    Attributes:
        is_open: needs no token, also in production.
        render_full: what those see who hold the token; None: the same.
        serve: answers instead of `render`, where the answer depends on the query or needs an await; never kept.
        methods: others are refused.
    """

    render: Callable[[RequestContext], Answer]
    is_open: bool = False
    render_full: Callable[[RequestContext], Answer] | None = None
    serve: ASGIApp | None = None
    methods: frozenset[str] = _READING


class Probes:
    """Serves `endpoints`; every other path goes on.

    Args:
        endpoints: by path; one whose path ends with a slash serves whatever is below it.
        admin_token: needed for endpoints that are not open; None leaves them open (development).
        within_limit: says whether this address may have a freshly rendered answer.
        hidden: paths that answer 404 because their feature is switched off.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        endpoints: dict[str, Endpoint],
        admin_token: Secret | None,
        within_limit: Callable[[str], bool],
        hidden: frozenset[str],
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._admin_token = admin_token
        self._within_limit = within_limit
        self._hidden = hidden
        # Written by the loop's thread only: one answer per endpoint, representation and kind of reader.
        self._last: dict[tuple[str, bool, bool], Answer] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        path: str = scope["path"]
        endpoint = self._endpoints.get(path)
        if endpoint is None and path.startswith(_INTERNAL):
            endpoint = self._endpoints.get(path[: path.find("/", len(_INTERNAL)) + 1])  # one that serves all below it
        if endpoint is None and path not in self._hidden:
            return self._app(scope, receive, send)
        return self._serve(endpoint, path, scope, receive, send)

    async def _serve(self, endpoint: Endpoint | None, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope["b1"]
        if endpoint is None:
            await _refuse(send, context, path, 404, "NOT_FOUND")
        elif scope["method"] not in endpoint.methods:
            await _refuse(send, context, path, 405, "METHOD_NOT_ALLOWED", endpoint.methods)
        elif not endpoint.is_open and not self._is_admin(context):
            await send_problem(send, Unauthenticated("this endpoint needs the admin token"), scope)
        elif endpoint.serve is not None:
            await endpoint.serve(scope, receive, send)
        else:
            status, content_type, body = self._answer(path, endpoint, context, scope)
            await send_bytes(send, status, body, content_type, _NO_STORE, is_head=scope["method"] == "HEAD")

    def _answer(self, path: str, endpoint: Endpoint, context: RequestContext, scope: Scope) -> Answer:
        peer = scope.get("client")
        # Our endpoints have two representations at most, and their media types tell them apart.
        accept = context.fields.get(b"accept", b"")
        is_full = endpoint.render_full is not None and self._is_admin(context)
        key = path, b"health+json" in accept or b"openmetrics" in accept, is_full
        last = self._last.get(key)
        if last is not None and not self._within_limit(peer[0] if peer else "unknown"):
            return last
        render = endpoint.render_full if is_full and endpoint.render_full is not None else endpoint.render
        answer = render(context)
        self._last[key] = answer
        return answer

    def _is_admin(self, context: RequestContext) -> bool:
        if self._admin_token is None:
            return True
        scheme, _, token = context.fields.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._admin_token.reveal().encode())


def health_endpoints(health: Health) -> dict[str, Endpoint]:
    """Return the four open probes."""

    def detailed(context: RequestContext, *, full: bool = False) -> Answer:
        if b"application/health+json" in context.fields.get(b"accept", b""):
            status, report = health.draft()
            return status, b"application/health+json", orjson.dumps(report)
        return _json(health.detailed(full=full))

    return {
        "/live": Endpoint(lambda _: _json(health.live()), is_open=True),
        "/ready": Endpoint(lambda _: _json(health.ready()), is_open=True),
        "/health": Endpoint(lambda _: _json(health.short()), is_open=True),
        "/health/detailed": Endpoint(detailed, is_open=True, render_full=partial(detailed, full=True)),
    }


def json_endpoint(read: Callable[[], Any]) -> Endpoint:
    """Return an endpoint that renders what `read` returns."""
    return Endpoint(lambda _: (200, JSON_TYPE, orjson.dumps(read(), option=orjson.OPT_SERIALIZE_DATACLASS)))


def served(app: ASGIApp, methods: frozenset[str]) -> Endpoint:
    """Return an endpoint that is an ASGI application of its own."""
    return Endpoint(lambda _: (404, JSON_TYPE, b""), serve=app, methods=methods)


def _json(answer: tuple[int, dict[str, Any]]) -> Answer:
    return answer[0], JSON_TYPE, orjson.dumps(answer[1])


async def _refuse(
    send: Send, context: RequestContext, path: str, status: int, code: str, methods: frozenset[str] = _READING
) -> None:
    context.code = code
    members = problem(status=status, code=code, instance=path, request_id=context.request_id)
    headers = [(b"allow", ", ".join(sorted(methods)).encode())] if status == 405 else []
    await send_problem_document(send, members, headers=headers)
