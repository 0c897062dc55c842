"""The clock of the work starts when the request is parsed; all that waits in it (turn, database, store) sees one end."""

from __future__ import annotations

import asyncio

from b1.asgi.context import RequestContext
from b1.asgi.deadlines import Deadlines
from b1.asgi.reply import send_problem
from b1.clock import DEADLINE, Clock
from b1.errors import DeadlineExceeded
from b1.types import ASGIApp, Message, Receive, Scope, Send


class Deadline:
    """Ends a request that takes too long with 503; an answer that has begun is not interrupted."""

    def __init__(self, app: ASGIApp, *, clock: Clock, deadlines: Deadlines, default_s: float) -> None:
        self._app = app
        self._clock = clock
        self._deadlines = deadlines
        self._default_s = default_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: RequestContext = scope["b1"]
        limit_s = context.route.options.deadline_s or self._default_s
        now_s = self._clock.monotonic()
        limit_s = max(0.0, limit_s - (now_s - context.started_s))  # what it waited for its turn is part of it
        token = DEADLINE.set(now_s + limit_s)
        watch = self._deadlines.begin(limit_s)

        async def begin(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._deadlines.end(watch)
                DEADLINE.set(None)  # what a stream still reads has bounds of its own
            await send(message)

        try:
            await self._app(scope, receive, begin)
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
            self._deadlines.end(watch)
            DEADLINE.reset(token)
