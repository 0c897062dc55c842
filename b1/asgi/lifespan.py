"""The application's lifespan with ours around it: our services start before it and stop after it.

An application without a lifespan of its own gets ours alone, so `B1` works around any ASGI application.
"""

from __future__ import annotations

from typing import Protocol

from b1.types import ASGIApp, Message, Receive, Scope, Send


class Services(Protocol):
    """What is started and stopped (the runtime)."""

    async def start(self) -> None: ...

    def mark_ready(self) -> None: ...

    async def aclose(self) -> None: ...


class Lifespan:
    """Runs the lifespan protocol."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_answered = False
        last: str | None = None

        async def receive_ours() -> Message:
            nonlocal last
            message = await receive()
            last = message["type"]
            if last == "lifespan.startup":
                await self._services.start()
            return message

        async def send_ours(message: Message) -> None:
            nonlocal has_answered
            has_answered = True
            if message["type"] == "lifespan.startup.complete":
                self._services.mark_ready()
            else:  # startup failed, or shutdown over: the application is done with our services
                await self._services.aclose()
            await send(message)

        try:
            await self._app(scope, receive_ours, send_ours)
        except Exception:
            if has_answered:
                raise
            await self._alone(receive, send, has_started=last == "lifespan.startup")

    async def _alone(self, receive: Receive, send: Send, *, has_started: bool) -> None:
        """Serve the protocol for an application that refused it."""
        if not has_started:
            await receive()
            await self._services.start()
        self._services.mark_ready()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._services.aclose()
        await send({"type": "lifespan.shutdown.complete"})
