"""The outermost layer: gives the request its id and route, times it, counts it, and answers what nobody else caught."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from starlette.requests import ClientDisconnect

from b1.asgi.context import CONTEXT, LINES, RequestContext
from b1.asgi.reply import problem, send_problem, send_problem_document
from b1.asgi.request_ids import RequestIds
from b1.asgi.routes import RouteTable
from b1.clock import Clock
from b1.errors import RequestError, transient
from b1.logs import REQUEST_ID
from b1.metrics import Metrics
from b1.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("b1.http")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = b"x-request-id"
# The extension that Starlette's test client offers, and no server.
_TEST_CLIENT = "http.response.debug"


class Observe:
    """Sees every request, refusals included."""

    def __init__(self, app: ASGIApp, *, routes: RouteTable, metrics: Metrics, clock: Clock) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics
        self._now_s = clock.monotonic
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method: str = scope["method"]
        root: str = scope.get("root_path", "")
        path: str = scope["path"]
        route, values = self._routes.find(method, path.removeprefix(root) if root else path)
        fields = dict(scope["headers"])
        request_id = self._ids.of(fields.get(b"x-request-id"))
        context = RequestContext(request_id, self._now_s(), route, values, fields)
        scope["b1"] = context
        CONTEXT.set(context)
        REQUEST_ID.set(request_id)
        own_send = context.own_send = _with_headers(context, send)
        metrics = self._metrics
        metrics.in_flight += 1
        try:
            await self._app(scope, receive, own_send)
        except Exception as error:  # noqa: BLE001 - the last resort: logged, counted and answered
            await self._failed(error, context, scope, send)
        finally:
            context.own_send = None  # it refers to the context
            metrics.in_flight -= 1
            metrics.request_answered(
                method if method in _METHODS else "other",
                route.template,
                context.status,
                self._now_s() - context.started_s,
            )

    async def _failed(self, error: Exception, context: RequestContext, scope: Scope, send: Send) -> None:
        """Log what no handler caught and answer, unless an answer is already on its way."""
        if context.status and _was_refused(send):
            context.status = 0
        if isinstance(error, ClientDisconnect):
            context.code = "CLIENT_GONE"  # it hung up while its body was read: nobody is left to be answered
            return
        known = error if isinstance(error, RequestError) else transient(error)
        if known is not None:
            if context.status == 0:
                await send_problem(_with_headers(context, send), known, scope)
            return
        self._metrics.unhandled_error()
        log.error(
            "unhandled error",
            exc_info=error,
            extra={"method": scope["method"], "route": context.route.template, "status": context.status},
        )
        if context.status == 0:
            context.code = "INTERNAL_ERROR"
            members = problem(
                status=500,
                code="INTERNAL_ERROR",
                detail="The server failed; the request id names this failure in its log.",
                instance=scope["path"],
                request_id=context.request_id,
            )
            await send_problem_document(_with_headers(context, send), members)
        if _TEST_CLIENT in scope.get("extensions", ()):
            raise error  # as Starlette does for all: a test wants to see it, and a server would log it once more


def _with_headers(context: RequestContext, send: Send) -> Send:
    """Return a `send` that notes the answer's beginning and adds to its headers.

    No coroutine of its own: it would cost two per answer.
    """
    takes_lines = getattr(getattr(send, "__self__", None), "takes_lines", False)

    def send_with_headers(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            context.status = message["status"]
            # A new message: the application may keep its own, and send it again to somebody else.
            if takes_lines:
                message = {**message, LINES: context.lines()}
                if context.added:
                    message["headers"] = [*message.get("headers", ()), *context.added]
            else:
                # Without an id of the application's: ours is the one in log and problem document.
                headers = [field for field in message.get("headers", ()) if field[0] != _REQUEST_ID]
                headers += context.response_headers
                headers.append((_REQUEST_ID, context.request_id.encode()))
                message = {**message, "headers": headers}
            if context.watch is not None:
                context.watch.answered()
        return send(message)

    return send_with_headers


def _was_refused(send: Send) -> bool:
    """Say whether our server did not write the head that it was given, of a field that HTTP does not allow, say."""
    cycle: Any = getattr(send, "__self__", None)
    return getattr(cycle, "takes_lines", False) and not (cycle.response_started or cycle.disconnected)
