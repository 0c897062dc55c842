"""The gate in front of the work: lets a request in, has it wait, or answers 503 at once.

The work of a client that hung up is cancelled where that is safe (GET, HEAD); a mutation goes on to its end, because a
client that repeats it with its key must find one outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic

from b1.admission import (
    ARRIVALS_STATE,
    ARRIVED_KEY,
    BODY,
    FULL,
    LINE_KEY,
    RANKS,
    AdmissionClass,
    AdmissionOptions,
    Gate,
    Habits,
    Refusal,
    Ticket,
    begin_thread_sample,
    end_thread_sample,
    measured,
)
from b1.asgi.context import RequestContext
from b1.asgi.middleware.handshakes import Handshakes
from b1.asgi.reply import send_problem
from b1.asgi.retry_later import RetryLater
from b1.asgi.routes import Route, RouteTable
from b1.clock import SystemClock
from b1.errors import NotReady, Overloaded
from b1.types import ASGIApp, Message, Receive, Scope, Send

# Names the class of a request whose route declares none.
DefaultClass = Callable[[RequestContext], AdmissionClass]

_SAFE = frozenset({"GET", "HEAD"})
_CRITICAL_LEVEL = 4
_LENGTH_DIGITS = 18


class Admission:
    """The layer.

    Args:
        is_running: services are up.
        gate: decides; without one the layer makes its own, from the arguments that follow.
        limit: the most that the adaptive limit grows to.
        is_critical: memory leaves no room for new work, where no level is known.
        deadline_s: of routes that declare none; a request that could not end in time is not started.
        default_class: names the class of a request whose route declares none; default: ``normal``.
        routes: say of which class a WebSocket is; without them every one is ``normal``.
        random: jitters Retry-After.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        is_running: Callable[[], bool],
        gate: Gate | None = None,
        limit: int = 200,
        is_critical: Callable[[], bool] = lambda: False,
        options: AdmissionOptions | None = None,
        deadline_s: float = 30.0,
        default_class: DefaultClass | None = None,
        routes: RouteTable | None = None,
        random: Random | None = None,
    ) -> None:
        if options is None:
            options = AdmissionOptions(initial_limit=min(8, limit), least_limit=min(2, limit), most_limit=limit)
        self._app = app
        self._is_running = is_running
        self._gate = gate or Gate(options, SystemClock(), level=lambda: _CRITICAL_LEVEL if is_critical() else 0)
        self._options = options
        self._deadline_s = deadline_s
        self._default_class = default_class
        self._habits: dict[Route, Habits] = {}  # bounded: the table makes its routes once
        self._retry_later = RetryLater(options.retry_after_least_s, options.retry_after_most_s, random or Random())
        self._handshakes = Handshakes(
            app, self._gate, self._retry_later, is_running=is_running, routes=routes, deadline_s=deadline_s
        )

    def __repr__(self) -> str:
        return f"<Admission {self._gate!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (self._handshakes if scope["type"] == "websocket" else self._app)(scope, receive, send)
            return
        if not self._is_running():
            await send_problem(send, NotReady(), scope)
            return
        gate = self._gate
        if gate.arrivals is None:
            gate.arrivals = scope.get("state", {}).get(ARRIVALS_STATE)
        context: RequestContext = scope["b1"]
        route = context.route
        habits = self._habits.get(route) or self._meet(route)
        rank = habits.rank if habits.rank >= 0 else self._rank_of(context)
        now_s = monotonic()
        arrived_s = gate.age_from(scope.get(ARRIVED_KEY) or context.started_s or now_s)
        ticket = Ticket(habits, rank, arrived_s, scope.get(LINE_KEY), context)
        if gate.refuses_large_bodies:
            bounded = self._bounded(context, receive)
            if bounded is None:
                await self._refuse(gate.refused(ticket, BODY), ticket, scope, send)
                return
            receive = bounded
        if not gate.try_enter(ticket, now_s):
            ticket.end_s = arrived_s + (route.options.deadline_s or self._deadline_s)
            refusal = await gate.enter(ticket)
            if refusal is not None:
                await self._refuse(refusal, ticket, scope, send)
                return
            if ticket.is_gone:
                gate.leave(ticket, is_honest=False)
                return
        fields = context.fields
        if b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
            if gate.reading >= self._options.most_reading:
                gate.leave(ticket, is_honest=False)
                await self._refuse(gate.refused(ticket, FULL), ticket, scope, send)
                return
            receive = _without_permit(gate, ticket, receive)
        ticket.task = asyncio.current_task()
        context.ticket = ticket
        line = ticket.line
        if line is not None and scope["method"] in _SAFE:
            line.ticket = ticket
        is_honest = False
        try:
            habits.to_sample -= 1
            if habits.to_sample <= 0:
                await self._sampled(ticket, scope, receive, send)
            else:
                await self._app(scope, receive, send)
            is_honest = True
        except asyncio.CancelledError:
            if not _take_back(ticket):
                raise
            if not ticket.is_gone and context.status == 0:
                await send_problem(send, Overloaded("the request was given up to free memory"), scope)
        finally:
            if ticket.ended_by is not None:
                _take_back(ticket)  # it ended in another way before our cancellation reached it
            gate.leave(ticket, is_honest=is_honest)

    async def _sampled(self, ticket: Ticket, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the work and measure how long it holds the loop, or the core from a thread."""
        ticket.habits.begin_sample()
        if not ticket.habits.in_thread:
            await measured(self._run(scope, receive, send), ticket, self._gate.core)
            return
        begin_thread_sample(ticket)
        await self._app(scope, receive, send)
        end_thread_sample(ticket)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Layers that have nothing to wait for do their part as they are called: that is work of the request too.
        await self._app(scope, receive, send)

    def _meet(self, route: Route) -> Habits:
        declared = route.options.admission
        rank = RANKS[declared] if declared is not None else -1 if self._default_class is not None else RANKS["normal"]
        habits = self._habits[route] = self._gate.habits(
            route.template, rank=rank, cpu_bound=route.options.cpu_bound, in_thread=route.in_thread
        )
        return habits

    def _rank_of(self, context: RequestContext) -> int:
        assert self._default_class is not None
        return RANKS[self._default_class(context)]

    def _bounded(self, context: RequestContext, receive: Receive) -> Receive | None:
        """Return what reads a body of moderate size; None when the body is known to be large."""
        limit_bytes = self._options.large_body_bytes
        length = context.fields.get(b"content-length")
        if length is not None:
            is_small = length.isdigit() and len(length) <= _LENGTH_DIGITS and int(length) <= limit_bytes
            return receive if is_small else None
        if b"transfer-encoding" not in context.fields:
            return receive
        received_bytes = 0

        async def counting() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > limit_bytes:
                raise Overloaded("large bodies are refused while memory is short")
            return message

        return counting

    async def _refuse(self, refusal: Refusal, ticket: Ticket, scope: Scope, send: Send) -> None:
        if ticket.is_gone:
            return  # nobody would read it
        context: RequestContext = scope["b1"]
        context.storable = False
        context.code = Overloaded.code
        # Closed after a refused body, because the client may go on to send all that it announced.
        await self._retry_later.send(send, scope, context.request_id, closes=refusal is BODY)


def _without_permit(gate: Gate, ticket: Ticket, receive: Receive) -> Receive:
    """Return what reads the body, holding no permit while the client sends it."""
    is_open = True

    async def reading() -> Message:
        nonlocal is_open
        if not is_open or ticket.is_stream:
            return await receive()  # waits for the client to hang up, beside work that goes on
        gate.pause(ticket)
        try:
            message = await receive()
        finally:
            gate.resume(ticket)
        is_open = message.get("more_body", False)
        return message

    return reading


def _take_back(ticket: Ticket) -> bool:
    """Undo the gate's cancellation, once; say whether it was the only one."""
    task, ticket.task = ticket.task, None
    return ticket.ended_by is not None and task is not None and task.uncancel() == 0
