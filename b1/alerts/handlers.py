"""What the application does when an alert fires: its handlers, by severity, kept out of everybody's way.

Handlers hear every edge, whether or not a cool-down keeps the receiver from hearing it. A plain function runs at once and
holds the loop, so it is short; an `async` one runs in a task of its own, with a deadline. What they raise is logged.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from b1.alerts.alert import Alert, Severity

log = logging.getLogger("b1.alerts")

Handler = Callable[[Alert], Awaitable[None] | None]
H = TypeVar("H", bound=Handler)

RUNNING_LIMIT = 16


@dataclass(frozen=True, slots=True)
class _Registered:
    handler: Handler
    severity: Severity | None
    also_resolved: bool


class Handlers:
    """Registered once, called at each edge.

    Args:
        timeout_s: longest run of one asynchronous handler.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self.failed = 0
        self._timeout_s = timeout_s
        self._registered: list[_Registered] = []
        self._running: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Handlers {len(self._registered)} running={len(self._running)} failed={self.failed}>"

    def register(self, severity: Severity | None, *, also_resolved: bool) -> Callable[[H], H]:
        """Return a decorator that registers a handler for one severity, or for all."""

        def keep(handler: H) -> H:
            self._registered.append(_Registered(handler, severity, also_resolved))
            return handler

        return keep

    def run(self, alert: Alert) -> None:
        """Call who wants to hear of it."""
        for one in self._registered:
            if one.severity in (None, alert.severity) and (alert.is_firing or one.also_resolved):
                self._call(one.handler, alert)

    async def aclose(self) -> None:
        """End those that still run."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _call(self, handler: Handler, alert: Alert) -> None:
        try:
            answer = handler(alert)
        except Exception:
            self.failed += 1
            log.exception("an alert handler failed", extra={"alert": alert.name})
            return
        if inspect.iscoroutine(answer):
            self._own(answer, alert)

    def _own(self, answer: Coroutine[Any, Any, None], alert: Alert) -> None:
        if len(self._running) >= RUNNING_LIMIT:
            answer.close()
            self.failed += 1
            log.error("too many alert handlers run, one was not started", extra={"alert": alert.name})
            return
        task = asyncio.get_running_loop().create_task(self._watch(answer, alert), name="b1-alert-handler")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _watch(self, answer: Coroutine[Any, Any, None], alert: Alert) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await answer
        except Exception:
            self.failed += 1
            log.exception("an alert handler failed", extra={"alert": alert.name})
