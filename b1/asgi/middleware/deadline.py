"""The clock of the work starts when the request is parsed; all that waits in it (turn, database, store) sees one end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from b1.asgi.context import RequestContext
from b1.asgi.deadlines import Deadlines, Watch
from b1.asgi.reply import send_problem
from b1.clock import DEADLINE, Clock
from b1.errors import DeadlineExceeded
from b1.types import ASGIApp, Message, Receive, Scope, Send


class Deadline:
    """Ends a request that takes too long with 503; an answer that has begun is not interrupted."""

    def __init__(self, app: ASGIApp, *, clock: Clock, deadlines: Deadlines, default_s: float) -> None:
        self._app = app
        self._now_s = clock.monotonic
        self._deadlines = deadlines
        self._default_s = default_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: RequestContext = scope["b1"]
        limit_s = context.route.options.deadline_s or self._default_s
        now_s = self._now_s()
        limit_s -= now_s - context.started_s  # what it waited for its turn is part of it
        if limit_s < 0.0:
            limit_s = 0.0
        token = DEADLINE.set(now_s + limit_s)
        if send is context.own_send:
            # Nobody in between: this is the task that was admitted, and the outermost layer sees the answer begin when we
            # would. (That layer lets go of its `send` at the end, so None is nobody's.)
            ticket = context.ticket
            watch = context.watch = self._deadlines.begin(limit_s, None if ticket is None else ticket.task)
        else:
            watch = self._deadlines.begin(limit_s)
            send = _ending(watch, send)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not watch.has_expired or not watch.take_back():
                raise
            if context.status == 0:  # else it answered while it was being ended
                await send_problem(send, DeadlineExceeded(f"no answer within {limit_s:g} s"), scope)
        except BaseException:
            if watch.has_expired:
                watch.take_back()
            raise
        else:
            if watch.has_expired:
                watch.take_back()
        finally:
            context.watch = None
            self._deadlines.end(watch)
            DEADLINE.reset(token)


def _ending(watch: Watch, send: Send) -> Send:
    """Return a `send` that ends the watch when the answer begins."""

    def begin(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            watch.answered()
        return send(message)

    return begin
