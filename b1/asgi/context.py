"""What b1 knows about the request in hand: one mutable object per request, in ``scope["b1"]`` and in `CONTEXT`.

Each layer of the stack writes its own fields and reads those of the layers outside it; nobody else writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from b1.asgi.deadlines import Watch
    from b1.asgi.routes import Route
    from b1.limiter import Decision
    from b1.types import Headers, Principal, Send

# Where an answer's start may have header lines that are written out already, for a server whose `send` belongs to an object
# with `takes_lines`: ours. They come after the fields in ``headers`` and are trusted; the request id among them replaces
# one of the application's.
LINES = "b1.lines"


class Telling(Protocol):
    """What writes a decision out: `b1.asgi.limits.Limits`."""

    def headers(self, decision: Decision) -> Headers: ...

    def lines(self, decision: Decision) -> bytes: ...


class RequestContext:
    """The request's state.

    Attributes:
        request_id: validated incoming ``X-Request-Id`` or a new one (observe).
        started_s: monotonic arrival (observe).
        route: the matched route with its b1 options; a catch-all when nothing matched (observe).
        path_values: the route's path parameters, as text (observe).
        fields: the request's headers by lower-case name, the last of a repeated name; where a repetition matters, look
            at ``scope["headers"]`` (observe).
        response_headers: added to whatever answer leaves (any layer appends). A decision of the limiter that was told
            is written out when somebody looks, or the answer leaves.
        status: of the answer, 0 until it starts (observe).
        client: canonical client address, or ``unknown`` (guard).
        principal: who is calling; None when anonymous (identity).
        attempt: the idempotent attempt in progress (idempotency).
        ticket: its place among those in work (admission).
        cached: what the limiter's trip read of the shared cache (limiter).
        storable: False when the answer says nothing about the handler's outcome (validation errors, refusals).
        code: the problem's code when the answer is an error of ours.
        own_send: what the layers below get as `send`, until the request is over; whoever gets another one has somebody
            in between who may hold the answer back, or run the work in another task (observe).
        watch: on the work, ended as soon as the answer begins to leave (deadline, where it got `own_send`).
    """

    __slots__ = (
        "_decided_by",
        "_decision",
        "_headers",
        "attempt",
        "cached",
        "client",
        "code",
        "fields",
        "own_send",
        "path_values",
        "principal",
        "request_id",
        "route",
        "started_s",
        "status",
        "storable",
        "ticket",
        "watch",
    )

    def __init__(
        self,
        request_id: str,
        started_s: float,
        route: Route,
        path_values: Mapping[str, str],
        fields: Mapping[bytes, bytes],
    ) -> None:
        self.request_id = request_id
        self.started_s = started_s
        self.route = route
        self.path_values = path_values
        self.fields = fields
        self._headers: Headers = []
        self._decision: Decision | None = None
        self._decided_by: Telling | None = None
        self.status = 0
        self.client = "unknown"
        self.principal: Principal | None = None
        self.attempt: Any = None  # an `Attempt`; typed by the idempotency layer, which alone touches it
        self.ticket: Any = None  # a `Ticket`; admission writes it, idempotency pauses it
        self.cached: Any = None  # a `CacheAnswer`
        self.storable = True
        self.code: str | None = None
        self.own_send: Send | None = None
        self.watch: Watch | None = None

    @property
    def response_headers(self) -> Headers:
        """Added to whatever answer leaves."""
        decision, decided_by = self._decision, self._decided_by
        if decision is not None and decided_by is not None:
            self._decision = self._decided_by = None
            self._headers += decided_by.headers(decision)
        return self._headers

    @response_headers.setter
    def response_headers(self, headers: Headers) -> None:
        self._headers = headers

    def tell(self, decision: Decision, decided_by: Telling) -> None:
        """Have the answer say what the limiter decided, after what is added so far."""
        _ = self.response_headers  # an earlier decision stands before this one
        self._decision, self._decided_by = decision, decided_by

    def lines(self) -> bytes:
        """Return what is added to the answer after `added`, as written in its head: one text instead of nine pairs."""
        decision, decided_by = self._decision, self._decided_by
        last = b"x-request-id: %b\r\n" % self.request_id.encode()
        return last if decision is None or decided_by is None else decided_by.lines(decision) + last

    @property
    def added(self) -> Headers:
        """What of `response_headers` `lines` does not have."""
        return self._headers


CONTEXT: ContextVar[RequestContext | None] = ContextVar("b1_request", default=None)


def current_organization() -> str | None:
    """Return the organisation on whose behalf this task works; None outside of requests and for nobody."""
    context = CONTEXT.get()
    return context.principal.organization if context is not None and context.principal is not None else None
