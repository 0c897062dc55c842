"""The requests in work: who they are, which of them are streams by now, and whom an emergency ends first.

A ticket's `slot` is its place in a list: a set would cost every request twice as much.
"""

from __future__ import annotations

from collections.abc import Iterable

from b1.admission.lane import Lane
from b1.admission.options import SHEDDABLE
from b1.admission.ticket import EMERGENCY, Ticket


class InWork:
    """The table. Written by the gate; its fast path uses `tickets` and `free` directly.

    Attributes:
        tickets: by slot; None where nobody is.
        free: slots without a ticket.
        streams: answers that go on and hold no permit any more.
    """

    __slots__ = ("free", "streams", "tickets")

    def __init__(self) -> None:
        self.tickets: list[Ticket | None] = []
        self.free: list[int] = []
        self.streams = 0

    def __repr__(self) -> str:
        return f"<InWork {len(self.tickets) - len(self.free)} streams={self.streams}>"

    def add(self, ticket: Ticket) -> None:
        """Give a ticket its slot."""
        ticket.slot = self.free.pop() if self.free else len(self.tickets)
        if ticket.slot == len(self.tickets):
            self.tickets.append(ticket)
        else:
            self.tickets[ticket.slot] = ticket

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket's slot back."""
        self.tickets[ticket.slot] = None
        self.free.append(ticket.slot)

    def release_streams(self, lanes: Iterable[Lane], started_before_s: float) -> None:
        """Take the permits of answers that go on and on: they wait for events, and would use up every permit."""
        if not any(2 * lane.running >= lane.limit for lane in lanes):
            return
        for ticket in self.tickets:
            if ticket is None or ticket.is_stream or ticket.is_reading:
                continue
            if ticket.started_s <= started_before_s and ticket.context.status:
                ticket.is_stream = True
                ticket.lane.give(ticket.rank)
                self.streams += 1

    def give_up_newest(self) -> bool:
        """End the newer half of the sheddable requests, which have done least; say whether more are left."""
        running = [ticket for ticket in self.tickets if ticket is not None and ticket.task is not None]
        sheddable = [ticket for ticket in running if ticket.rank == SHEDDABLE and ticket.ended_by is None]
        sheddable.sort(key=lambda ticket: ticket.started_s)
        for ticket in sheddable[len(sheddable) // 2 :]:
            ticket.cancel(EMERGENCY.reason)
        return len(sheddable) > 1
