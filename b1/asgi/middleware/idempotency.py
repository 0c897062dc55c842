"""Idempotency at the edge: key, body, fingerprint, claim, handler, record; in that order, cheapest refusal first.

A request that is refused before its body is complete leaves no trace. One that reached the handler is carried to its end
in a task of the service, whether its client still listens or not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from b1.asgi.body import ClientDisconnected
from b1.asgi.context import RequestContext
from b1.asgi.middleware.exchange import NOT_STORED, Exchange, send_replay
from b1.asgi.reply import send_problem
from b1.asgi.spooling import replay_spool, spool_body
from b1.errors import Forbidden, IdempotencyError, IdempotencyKeyMissing, Overloaded, RequestError, StoreUnavailable
from b1.idempotency import Attempt, Idempotency, IdempotencyOptions, Keyed, Record
from b1.idempotency.fingerprint import CURRENT, DEFINITIONS, fingerprint, kept, scope_digest, store_key
from b1.idempotency.key import parse_key
from b1.idempotency.payload import Payload
from b1.units import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from b1.idempotency.spool import Spool
    from b1.types import ASGIApp, Headers, Message, Principal, Receive, Scope, Send

_FOR_THE_LOOP = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LENGTH_DIGITS = 18
_AUTO = (b"idempotency-key-source", b"auto")


class Permits(Protocol):
    """Who admitted a request (`b1.admission.Gate`): while it waits for another's outcome, others may have its permit."""

    def pause(self, ticket: Any) -> None: ...
    def resume(self, ticket: Any) -> None: ...


class IdempotencyMiddleware:
    """Acts on unsafe requests, by a known principal, to routes that declare idempotency.

    Anonymous requests pass: there is nobody whose key it could be, and refusing them is the route's own affair.

    Args:
        body_limit_bytes: largest request body of routes that name no limit; over it 413.
        permits: takes back what a request holds while it only waits; None: there is nobody who admitted it.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Idempotency,
        *,
        body_limit_bytes: int = 32 * MIB,
        permits: Permits | None = None,
    ) -> None:
        self._app = app
        self._service = service
        self._body_limit_bytes = body_limit_bytes
        self._permits = permits

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        context: RequestContext | None = scope.get("b1") if scope["type"] == "http" else None
        route = context.route.options.idempotency if context is not None else None
        if context is None or route is None:
            return self._app(scope, receive, send)
        principal = context.principal
        if principal is None or scope["method"] not in _UNSAFE or not route.enabled:
            return self._app(scope, receive, send)
        return self._serve(context, route, principal, scope, receive, send)

    async def _serve(
        self,
        context: RequestContext,
        route: IdempotencyOptions,
        principal: Principal,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            key = self._key(scope, route, principal)
        except RequestError as error:
            await self._refuse(error, scope, send)
            return
        if key is None and route.for_auto is None:
            await self._app(scope, receive, send)
            return
        request = _Request(scope, context, principal, route, key, self._service.spools.open(), self._permits)
        try:
            await self._with_body(request, receive, send)
        except ClientDisconnected:
            pass  # half a request is no request, and nobody is left to tell
        finally:
            if not request.has_run:
                request.spool.close()

    def _key(self, scope: Scope, route: IdempotencyOptions, principal: Principal) -> str | None:
        if route.allow is not None and not route.allow(principal):
            raise Forbidden
        key = parse_key(scope["headers"], quoted_only=self._service.options.quoted_only)
        if key is None and route.required:
            raise IdempotencyKeyMissing("send an Idempotency-Key of 1 to 255 characters, new for each new operation")
        return key

    async def _with_body(self, request: _Request, receive: Receive, send: Send) -> None:
        """Take the whole body in, then let the key decide."""
        scope, route, spool = request.scope, request.route, request.spool
        payload = request.payload(CURRENT)
        limit_bytes = route.request_limit_bytes
        if limit_bytes is None:
            limit_bytes = request.context.route.options.body_limit_bytes or self._body_limit_bytes
        try:
            await spool_body(receive, spool, payload.feed, limit_bytes=limit_bytes, length=request.length())
        except RequestError as error:
            await self._refuse(error, scope, send)
            return
        if request.key is None:
            if not _wants_auto_key(route, spool):
                await self._app(scope, replay_spool(spool, receive), send)
                return
            send = _with_header(send, _AUTO)
        await self._begin(request, payload, receive, send)

    async def _begin(self, request: _Request, payload: Payload, receive: Receive, send: Send) -> None:
        keyed, route = request.keyed(payload), request.route
        if request.key is None and route.for_auto is not None:
            route = route.for_auto
        try:
            begun = await self._service.begin(keyed, route, request)
        except (StoreUnavailable, Overloaded) as error:
            if request.key is not None:
                await self._refuse(error, request.scope, send)
                return
            # This client asked for no guarantee: it gets none, and is told.
            await self._app(request.scope, replay_spool(request.spool, receive), _with_header(send, NOT_STORED))
            return
        except RequestError as error:
            await self._refuse(error, request.scope, send)
            return
        if isinstance(begun, Record):
            await send_replay(send, begun)
            return
        receive = replay_spool(request.spool, receive)
        request.context.attempt = begun
        exchange = Exchange(send, request.scope, begun, route.body_cap_bytes)
        work = self._run(request.scope, receive, exchange, begun)
        running = self._service.spawn(work, name="b1-idempotency-run")
        # The handler may go on reading after its client has left.
        request.has_run = True
        running.add_done_callback(request.over)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            exchange.detach()
            raise

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

    async def _refuse(self, error: RequestError, scope: Scope, send: Send) -> None:
        page = self._service.options.described_by
        headers: Headers | None = None
        if page is not None and isinstance(error, IdempotencyError):
            headers = [(b"link", f'<{page}>; rel="describedby"; type="text/html"'.encode())]
        await send_problem(send, error, scope, headers=headers)


class _Request:
    """What one request with a key is made of. `has_run`: its body belongs to the task that runs the handler."""

    __slots__ = ("_paused", "_permits", "context", "has_run", "key", "principal", "route", "scope", "spool")

    def __init__(
        self,
        scope: Scope,
        context: RequestContext,
        principal: Principal,
        route: IdempotencyOptions,
        key: str | None,
        spool: Spool,
        permits: Permits | None,
    ) -> None:
        self.scope = scope
        self.context = context
        self.principal = principal
        self.route = route
        self.key = key
        self.spool = spool
        self.has_run = False
        self._permits = permits
        self._paused: Any = None  # the ticket, while its permit is given back

    def over(self, _: object) -> None:
        """The handler has ended. The attempt refers to this request: without this both would wait for the collector."""
        self.context.attempt = None
        self.spool.close()

    def pause(self) -> None:
        """Give the permit back for as long as this request waits for another's outcome."""
        ticket = getattr(self.context, "ticket", None)
        if self._permits is not None and ticket is not None and not ticket.is_stream:
            self._paused = ticket
            self._permits.pause(ticket)

    def resume(self) -> None:
        """Go on with it."""
        ticket, self._paused = self._paused, None
        if self._permits is not None and ticket is not None:
            self._permits.resume(ticket)

    def length(self) -> int | None:
        """Return the length that the client announced; what is no number was judged before."""
        value = self.context.fields.get(b"content-length", b"")
        return int(value) if value.isdigit() and len(value) <= _LENGTH_DIGITS else None

    def payload(self, version: int) -> Payload:
        """Return what takes the body for a fingerprint by this definition."""
        fields = self.context.fields
        return Payload(
            fields.get(b"content-type", b""),
            fields.get(b"content-encoding", b""),
            canonical_json=self.route.canonical_json,
            canonical=DEFINITIONS[version].canonical,
        )

    def keyed(self, payload: Payload) -> Keyed:
        """Return what the ledger sees; a key that is missing is made from what was asked."""
        principal, asked = self.principal, self._asked(payload, CURRENT)
        digest = scope_digest(
            organization=principal.organization,
            actor=principal.actor,
            method=self.scope["method"],
            template=self.context.route.template,
            path_values=self.context.path_values,
            key=asked.hex() if self.key is None else self.key,
            is_auto=self.key is None,
        )
        return Keyed(
            store_key(principal.organization, digest),
            digest,
            kept(asked, CURRENT),
            principal.organization or "",
            principal.actor,
            self.by_definition,
        )

    async def by_definition(self, version: int) -> bytes | None:
        """Return the fingerprint by another definition; the body is read again for it."""
        if version not in DEFINITIONS:
            return None
        payload, offset = self.payload(version), 0
        while offset < len(self.spool):
            piece = await self.spool.read(offset)
            payload.feed(piece)
            offset += len(piece)
        return kept(self._asked(payload, version), version)

    def _asked(self, payload: Payload, version: int) -> bytes:
        return fingerprint(
            method=self.scope["method"],
            template=self.context.route.template,
            path_values=self.context.path_values,
            query=self.scope.get("query_string", b""),
            payload=payload,
            version=version,
        )


def _wants_auto_key(route: IdempotencyOptions, spool: Spool) -> bool:
    if not callable(route.auto_key):
        return True
    body = spool.in_memory
    try:
        members = orjson.loads(body) if body is not None else None
    except orjson.JSONDecodeError:
        return False
    return isinstance(members, dict) and route.auto_key(members)


def _with_header(send: Send, header: tuple[bytes, bytes]) -> Send:
    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), header]}
        await send(message)

    return adding


def _is_for_the_loop(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(_FOR_THE_LOOP) is not None
    return isinstance(error, _FOR_THE_LOOP)
