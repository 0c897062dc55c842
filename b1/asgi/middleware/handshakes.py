"""The gate in front of WebSockets: a handshake is a request like any other, what it opens is not.

While it is opened a WebSocket needs a permit, because the application looks up who is calling. Open, it waits for events:
it holds no permit and is only counted. One that is refused gets its 503 as an answer to the handshake, where the server
can give one (the extension ``websocket.http.response``); else code 1013, which servers turn into a 403.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from time import monotonic

from b1.admission import RANKS, Gate, Habits, Refusal, Ticket
from b1.asgi.reply import send_problem
from b1.asgi.retry_later import RetryLater
from b1.asgi.routes import Route, RouteTable
from b1.errors import NotReady
from b1.types import ASGIApp, Message, Receive, Scope, Send

TRY_AGAIN_LATER = 1013
_ANY = Route("websocket")


class _Handshake:
    """What the gate asks a request for: has its answer begun."""

    status = 0


class Handshakes:
    """Lets WebSockets in.

    Args:
        is_running: services are up.
        routes: say of which class a WebSocket is; without them every one is ``normal``.
        deadline_s: of routes that declare none; a handshake that could not end in time is not started.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        retry_later: RetryLater,
        *,
        is_running: Callable[[], bool],
        routes: RouteTable | None,
        deadline_s: float,
    ) -> None:
        self._app = app
        self._gate = gate
        self._retry_later = retry_later
        self._is_running = is_running
        self._routes = routes
        self._deadline_s = deadline_s
        self._habits: dict[Route, Habits] = {}  # bounded: the table makes its routes once

    def __repr__(self) -> str:
        return f"<Handshakes open={self._gate.sockets}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_running():
            await _refuse(lambda send: send_problem(send, NotReady(), scope), scope, receive, send)
            return
        ticket = self._ticket(scope)
        if await self._enter(ticket) is not None:
            request_id = os.urandom(16).hex()
            await _refuse(lambda send: self._retry_later.send(send, scope, request_id), scope, receive, send)
            return
        gate, is_open = self._gate, False

        async def noticing(message: Message) -> None:
            nonlocal is_open
            await send(message)
            if message["type"] == "websocket.accept" and not is_open:
                is_open = True
                gate.opened(ticket)

        try:
            await self._app(scope, receive, noticing)
        finally:
            if is_open:
                gate.closed()
            else:
                gate.leave(ticket, is_honest=False)

    def _ticket(self, scope: Scope) -> Ticket:
        route = _ANY
        if self._routes is not None:
            root: str = scope.get("root_path", "")
            route = self._routes.find("GET", scope["path"].removeprefix(root))[0]
        habits = self._habits.get(route)
        if habits is None:
            rank = RANKS[route.options.admission or "normal"]
            # Not measured: what holds the loop is not the handshake.
            habits = self._habits[route] = self._gate.habits(route.template, rank=rank, cpu_bound=False)
        now_s = monotonic()
        ticket = Ticket(habits, habits.rank, now_s, None, _Handshake())
        ticket.end_s = now_s + (route.options.deadline_s or self._deadline_s)
        return ticket

    async def _enter(self, ticket: Ticket) -> Refusal | None:
        gate = self._gate
        refusal = gate.may_open(ticket)
        if refusal is not None or gate.try_enter(ticket, ticket.arrived_s):
            return refusal
        return await gate.enter(ticket)


async def _refuse(answer: Callable[[Send], Awaitable[None]], scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the handshake, as far as the server lets us."""
    await receive()  # the client's wish, which is there already
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "the service is at its limit"})
        return

    async def as_handshake(message: Message) -> None:
        await send({**message, "type": "websocket." + message["type"]})

    await answer(as_handshake)
