"""What the server tells the gate (how much arrives, who hung up), and the gate the server (how long to keep idle lines).

Written by the protocol and read by the gate, on one loop. The server knows this module; the gate finds the object in the
scope's state, so that an application under any other server works without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from b1.admission.ticket import Ticket

# Where the server puts its `Arrivals` (in the lifespan's state, which every scope carries), and, in each scope, the
# connection's `Line` and the moment the request arrived on the monotonic clock.
ARRIVALS_STATE = "b1.arrivals"
LINE_KEY = "b1.line"
ARRIVED_KEY = "b1.arrived_s"


class Arrivals:
    """Shared by all connections of a worker.

    Attributes:
        events: connections made and pieces received since the start; a turn of the loop without a new one brought nothing.
        asked_s, asked_age_s: when the kernel was last asked for the age of a request's bytes, and what it said.
        keep_alive_s: how long an idle connection stays open after an answer.
    """

    __slots__ = ("asked_age_s", "asked_s", "events", "keep_alive_s", "usual_keep_alive_s")

    def __init__(self, keep_alive_s: float) -> None:
        self.events = 0
        self.asked_s = self.asked_age_s = 0.0
        self.keep_alive_s = self.usual_keep_alive_s = keep_alive_s

    def __repr__(self) -> str:
        return f"<Arrivals {self.events} keep_alive={self.keep_alive_s:g} s>"

    def shorten(self, keep_alive_s: float | None) -> None:
        """Close idle connections after `keep_alive_s` at the latest; None brings the usual time back."""
        usual_s = self.usual_keep_alive_s
        self.keep_alive_s = usual_s if keep_alive_s is None else min(usual_s, keep_alive_s)


class Line:
    """One connection as the gate sees it: whether somebody still listens, and what to cancel when nobody does."""

    __slots__ = ("is_gone", "ticket")

    def __init__(self) -> None:
        self.is_gone = False
        self.ticket: Ticket | None = None

    def lost(self) -> None:
        """The client hung up."""
        self.is_gone = True
        if self.ticket is not None:
            self.ticket.cancel("client gone")
