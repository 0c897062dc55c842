"""The clock of the work starts when the work is admitted; all that waits in it (database, store, loads) sees one end."""

from __future__ import annotations

import asyncio

from b1.asgi.context import RequestContext
from b1.asgi.reply import send_problem
from b1.clock import DEADLINE, Clock
from b1.errors import DeadlineExceeded
from b1.types import ASGIApp, Message, Receive, Scope, Send


class Deadline:
    """Ends a request that takes too long with 503; an answer that has begun is not interrupted."""

    def __init__(self, app: ASGIApp, *, clock: Clock, default_s: float) -> None:
        self._app = app
        self._clock = clock
        self._default_s = default_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: RequestContext = scope["b1"]
        limit_s = context.route.options.deadline_s or self._default_s
        token = DEADLINE.set(self._clock.monotonic() + limit_s)
        bound = asyncio.timeout(limit_s)

        async def begin(message: Message) -> None:
            if message["type"] == "http.response.start" and not bound.expired():
                bound.reschedule(None)
                DEADLINE.set(None)  # what the stream still reads has its own bounds
            await send(message)

        try:
            async with bound:
                await self._app(scope, receive, begin)
        except TimeoutError:
            if not bound.expired():
                raise  # the handler's own
            if context.status == 0:  # else it answered while it was being ended
                await send_problem(send, DeadlineExceeded(f"no answer within {limit_s:g} s"), scope)
        finally:
            DEADLINE.reset(token)
