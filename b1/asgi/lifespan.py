"""The application's lifespan with ours around it: our services start before it and stop after it.

An application without a lifespan of its own gets ours alone, so `B1` works around any ASGI application: one that raises at
the sight of the protocol, and one that returns without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from b1.types import ASGIApp, Message, Receive, Scope, Send

# Where our server puts the event that a stop has begun, long before the lifespan's own end (b1.server.serving).
STOPPING_STATE = "b1.stopping"
# Where it puts what this worker knows of its predecessor and its successor.
SUCCESSION_STATE = "b1.succession"
# Where it puts functions that return what became of workers, and which requests the protocol refused, by code.
WORKERS_STATE = "b1.workers"
REFUSALS_STATE = "b1.refusals"


class Services(Protocol):
    """What is started and stopped (the runtime)."""

    def join(self, server: Mapping[str, Any]) -> None:
        """Hear, before the start, what the server says of itself: see the names above. Another server says nothing."""

    async def start(self) -> None: ...

    async def take_over(self) -> None:
        """Everything has started: take from the predecessor what it leaves."""

    def mark_ready(self) -> None: ...

    def watch_stop(self, begun: asyncio.Event) -> None: ...

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
                await self._start(scope)
            return message

        async def send_ours(message: Message) -> None:
            self._has_answered = True
            if message["type"] == "lifespan.startup.complete":
                await self._mark_ready(scope)
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

    async def _start(self, scope: Scope) -> None:
        """Start our services; a failure ends the start, whatever the application makes of the exception."""
        self._has_started = True
        self._services.join(scope.get("state", {}))
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
                await self._start(scope)
            except Exception as error:  # noqa: BLE001 - whatever it is, the server has to hear that the start failed
                await self._services.aclose()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
        await self._mark_ready(scope)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._services.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _mark_ready(self, scope: Scope) -> None:
        await self._services.take_over()
        self._services.mark_ready()
        if (begun := scope.get("state", {}).get(STOPPING_STATE)) is not None:
            self._services.watch_stop(begun)
