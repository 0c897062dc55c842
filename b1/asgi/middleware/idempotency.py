"""Idempotency at the edge: key, body, fingerprint, claim, handler, record; in that order, cheapest refusal first.

A request that is refused before its body is complete leaves no trace. One that reached the handler is carried to its end
in a task of the service, whether its client still listens or not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from b1.asgi.body import ClientDisconnected, read_body, replay_body
from b1.asgi.context import RequestContext
from b1.asgi.middleware.exchange import Exchange, send_replay
from b1.asgi.reply import send_problem
from b1.errors import Forbidden, IdempotencyKeyMissing, RequestError
from b1.idempotency import Attempt, Idempotency, IdempotencyOptions, Keyed, Record
from b1.idempotency.fingerprint import fingerprint, scope_digest, store_key
from b1.idempotency.key import parse_key
from b1.units import MIB

if TYPE_CHECKING:
    from b1.types import ASGIApp, Headers, Principal, Receive, Scope, Send

_FOR_THE_LOOP = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class IdempotencyMiddleware:
    """Acts on unsafe requests, by a known principal, to routes that declare idempotency.

    Anonymous requests pass: there is nobody whose key it could be, and refusing them is the route's own affair.

    Args:
        body_limit_bytes: largest request body that is held in memory for its fingerprint; over it 413.
    """

    def __init__(self, app: ASGIApp, service: Idempotency, *, body_limit_bytes: int = 32 * MIB) -> None:
        self._app = app
        self._service = service
        self._body_limit_bytes = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext | None = scope.get("b1") if scope["type"] == "http" else None
        route = context.route.options.idempotency if context is not None else None
        if context is None or route is None or context.principal is None or scope["method"] not in _UNSAFE:
            await self._app(scope, receive, send)
            return
        try:
            key = self._key(scope, route, context.principal)
            if key is None:
                await self._app(scope, receive, send)
                return
            body = await read_body(receive, self._body_limit_bytes)
            keyed = _keyed(scope, context, context.principal, route, key, body)
            begun = await self._service.begin(keyed, route)
        except ClientDisconnected:
            return  # half a request is no request, and nobody is left to tell
        except RequestError as error:
            await send_problem(send, error, scope)
            return
        if isinstance(begun, Record):
            await send_replay(send, begun)
            return
        context.attempt = begun
        exchange = Exchange(send, scope, begun, route.body_cap_bytes)
        work = self._run(scope, replay_body(body, receive), exchange, begun)
        running = self._service.spawn(work, name="b1-idempotency-run")
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            exchange.detach()
            raise

    @staticmethod
    def _key(scope: Scope, route: IdempotencyOptions, principal: Principal) -> str | None:
        if route.allow is not None and not route.allow(principal):
            raise Forbidden
        key = parse_key(scope["headers"])
        if key is None and route.required:
            raise IdempotencyKeyMissing("send an Idempotency-Key of 1 to 255 characters, new for each new operation")
        return key

    async def _run(self, scope: Scope, receive: Receive, exchange: Exchange, attempt: Attempt) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except BaseException as error:
            if not attempt.known or _is_for_the_loop(error):
                raise
            # Postgres knows the answer, and the handler was left on purpose. What frameworks make of that on the way out
            # (a RuntimeError of BaseHTTPMiddleware, groups of task groups) is no failure.
        finally:
            await exchange.end()


def _is_for_the_loop(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(_FOR_THE_LOOP) is not None
    return isinstance(error, _FOR_THE_LOOP)


def _keyed(
    scope: Scope,
    context: RequestContext,
    principal: Principal,
    route: IdempotencyOptions,
    key: str,
    body: bytes,
) -> Keyed:
    method, template, values = scope["method"], context.route.template, context.path_values
    digest = scope_digest(
        organization=principal.organization,
        actor=principal.actor,
        method=method,
        template=template,
        path_values=values,
        key=key,
    )
    return Keyed(
        store_key=store_key(principal.organization, digest),
        digest=digest,
        fingerprint=fingerprint(
            method=method,
            template=template,
            path_values=values,
            query=scope.get("query_string", b""),
            content_type=_header(scope["headers"], b"content-type"),
            body=body,
            canonical_json=route.canonical_json,
        ),
        organization=principal.organization or "",
        actor=principal.actor,
    )


def _header(headers: Headers, wanted: bytes) -> bytes:
    return next((value for name, value in headers if name == wanted), b"")
