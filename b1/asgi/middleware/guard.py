"""Bounds what a client may send, and says who the client is as far as the network knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from b1.asgi.context import RequestContext
from b1.asgi.reply import send_problem
from b1.errors import BodyTooLarge, MalformedRequest
from b1.limiter import client_address
from b1.types import ASGIApp, Message, Receive, Scope, Send
from b1.units import format_bytes

# Route template, bytes of a body, request id.
NoteSize = Callable[[str, int, str], None]

# More digits are no length that anybody accepts, and int() refuses thousands of them.
_LENGTH_DIGITS = 18


class Guard:
    """Caps bodies, with and without a length, and sets the client's address and scheme.

    Args:
        proxy: ``azure``, ``none`` or the number of trusted proxies in front.
        note_size: told of each body: route template, bytes, request id.
    """

    def __init__(
        self, app: ASGIApp, *, body_limit_bytes: int, proxy: str, note_size: NoteSize = lambda *_: None
    ) -> None:
        self._app = app
        self._note_size = note_size
        self._body_limit_bytes = body_limit_bytes
        self._proxy = proxy

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        context: RequestContext = scope["b1"]
        fields, peer = context.fields, scope.get("client")
        context.client = client_address(peer[0] if peer else None, scope["headers"], self._proxy)
        if self._proxy != "none":
            scheme = fields.get(b"x-forwarded-proto")
            if scheme in (b"http", b"https"):
                scope["scheme"] = scheme.decode()
        if "\0" in scope["path"]:
            return send_problem(send, MalformedRequest("the path contains a NUL"), scope)
        length = fields.get(b"content-length")
        if length is not None:
            limit_bytes = context.route.options.body_limit_bytes or self._body_limit_bytes
            if not length.isdigit():
                return send_problem(send, MalformedRequest("Content-Length is no number"), scope)
            if len(length) > _LENGTH_DIGITS or int(length) > limit_bytes:
                # Closed, because the client may go on to send all that it announced.
                return send_problem(send, _too_large(limit_bytes), scope, headers=[(b"connection", b"close")])
            self._note_size(context.route.template, int(length), context.request_id)
        elif b"transfer-encoding" in fields:
            limit_bytes = context.route.options.body_limit_bytes or self._body_limit_bytes
            return self._counted(limit_bytes, scope, receive, send)
        return self._app(scope, receive, send)

    async def _counted(self, limit_bytes: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a body that announces no length, and answer 413 in the application's place once it is too long."""
        received_bytes = 0
        is_too_large = has_refused = False

        async def counting() -> Message:
            nonlocal received_bytes, is_too_large
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > limit_bytes:
                is_too_large = True
                raise _too_large(limit_bytes)
            return message

        async def refusing(message: Message) -> None:
            nonlocal has_refused
            if not is_too_large:
                await send(message)
            elif not has_refused:
                has_refused = True
                await send_problem(send, _too_large(limit_bytes), scope, headers=[(b"connection", b"close")])

        try:
            await self._app(scope, counting, refusing)
        except BodyTooLarge:
            if scope["b1"].status == 0:
                await refusing({"type": "http.response.start"})
        finally:
            context: RequestContext = scope["b1"]
            self._note_size(context.route.template, received_bytes, context.request_id)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"at most {format_bytes(limit_bytes)} are accepted")
