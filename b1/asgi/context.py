"""What b1 knows about the request in hand: one mutable object per request, in ``scope["b1"]`` and in `CONTEXT`.

Each layer of the stack writes its own fields and reads those of the layers outside it; nobody else writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from b1.asgi.routes import Route
    from b1.types import Headers, Principal


class RequestContext:
    """The request's state.

    Attributes:
        request_id: validated incoming ``X-Request-Id`` or a new one (observe).
        started_s: monotonic arrival (observe).
        route: the matched route with its b1 options; a catch-all when nothing matched (observe).
        path_values: the route's path parameters, as text (observe).
        fields: the request's headers by lower-case name, the last of a repeated name; where a repetition matters, look
            at ``scope["headers"]`` (observe).
        response_headers: added to whatever answer leaves (any layer appends).
        status: of the answer, 0 until it starts (observe).
        client: canonical client address, or ``unknown`` (guard).
        principal: who is calling; None when anonymous (identity).
        attempt: the idempotent attempt in progress (idempotency).
        ticket: its place among those in work (admission).
        cached: what the limiter's trip read of the shared cache (limiter).
        storable: False when the answer says nothing about the handler's outcome (validation errors, refusals).
        code: the problem's code when the answer is an error of ours.
    """

    __slots__ = (
        "attempt",
        "cached",
        "client",
        "code",
        "fields",
        "path_values",
        "principal",
        "request_id",
        "response_headers",
        "route",
        "started_s",
        "status",
        "storable",
        "ticket",
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
        self.response_headers: Headers = []
        self.status = 0
        self.client = "unknown"
        self.principal: Principal | None = None
        self.attempt: Any = None  # an `Attempt`; typed by the idempotency layer, which alone touches it
        self.ticket: Any = None  # a `Ticket`; admission writes it, idempotency pauses it
        self.cached: Any = None  # a `CacheAnswer`
        self.storable = True
        self.code: str | None = None


CONTEXT: ContextVar[RequestContext | None] = ContextVar("b1_request", default=None)


def current_organization() -> str | None:
    """Return the organisation on whose behalf this task works; None outside of requests and for nobody."""
    context = CONTEXT.get()
    return context.principal.organization if context is not None and context.principal is not None else None
