"""The cheapest refusal: compares numbers, no I/O. First version: a fixed bound on requests in work, and memory."""

from __future__ import annotations

from collections.abc import Callable

from b1.asgi.reply import send_problem
from b1.errors import NotReady, Overloaded
from b1.types import ASGIApp, Receive, Scope, Send


class Admission:
    """Lets a request in, or answers 503 with Retry-After.

    Args:
        limit: requests in work at once.
        is_running: services are up.
        is_critical: memory leaves no room for new work.
    """

    def __init__(
        self, app: ASGIApp, *, limit: int, is_running: Callable[[], bool], is_critical: Callable[[], bool]
    ) -> None:
        self._app = app
        self._limit = limit
        self._is_running = is_running
        self._is_critical = is_critical
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._is_running():
            await send_problem(send, NotReady(), scope)
            return
        if self._running >= self._limit or self._is_critical():
            await send_problem(send, Overloaded(), scope)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
