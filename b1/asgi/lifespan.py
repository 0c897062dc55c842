"""The application's lifespan with ours around it: our services start before it and stop after it.

An application without a lifespan of its own gets ours alone, so `B1` works around any ASGI application: one that raises at
the sight of the protocol, and one that returns without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from b1.types import ASGIApp, Message, Receive, Scope, Send

# Where our server puts the event that a stop has begun, long before the lifespan's own end (b1.server.serving).
STOPPING_STATE = "b1.stopping"
# Where it puts the function that ends this worker in order, so that the master starts another.
REPLACE_STATE = "b1.replace"


class Services(Protocol):
    """What is started and stopped (the runtime)."""

    async def start(self) -> None: ...

    def mark_ready(self) -> None: ...

    def watch_stop(self, begun: asyncio.Event) -> None: ...

    def replace_through(self, end_worker: Callable[[], None]) -> None: ...

    async def aclose(self) -> None: ...


class Lifespan:
    """Runs the lifespan protocol, once."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._has_started = False
        self._has_answered = False
        self._failure: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_ours() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start()
            return message

        async def send_ours(message: Message) -> None:
            self._has_answered = True
            if message["type"] == "lifespan.startup.complete":
                self._mark_ready(scope)
            else:  # startup failed, or shutdown over: the application is done with our services
                await self._services.aclose()
            await send(message)

        try:
            await self._app(scope, receive_ours, send_ours)
        except Exception:
            if self._has_answered:
                raise
        finally:
            if self._has_answered or self._failure is not None:
                await self._services.aclose()  # also when the application ended without its last word
        if self._has_answered:
            return
        if self._failure is not None:
            await send({"type": "lifespan.startup.failed", "message": str(self._failure)})
        else:
            await self._alone(scope, receive, send)

    async def _start(self) -> None:
        """Start our services; a failure ends the start, whatever the application makes of the exception."""
        self._has_started = True
        try:
            await self._services.start()
        except Exception as error:
            self._failure = error
            raise

    async def _alone(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the protocol for an application that did not."""
        if not self._has_started:
            await receive()
            try:
                await self._start()
            except Exception as error:  # noqa: BLE001 - whatever it is, the server has to hear that the start failed
                await self._services.aclose()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
        self._mark_ready(scope)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._services.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _mark_ready(self, scope: Scope) -> None:
        self._services.mark_ready()
        state = scope.get("state", {})
        if (begun := state.get(STOPPING_STATE)) is not None:
            self._services.watch_stop(begun)
        if (end_worker := state.get(REPLACE_STATE)) is not None:
            self._services.replace_through(end_worker)
