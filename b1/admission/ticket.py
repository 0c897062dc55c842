"""One request on its way through the gate. It exists from the arrival at the gate to its end, whatever the end is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from b1.admission.arrivals import Line
    from b1.admission.habits import Habits
    from b1.admission.lane import Lane


class Ticket:
    """The request's passage; written by the gate alone.

    Attributes:
        rank: its class, as a place in `CLASSES`.
        arrived_s: when its bytes reached the host, on the monotonic clock.
        end_s: when its answer is of no use any more.
        started_s: when it was admitted.
        held_s: how long it held the loop, in seconds; measured for a sample of requests.
        cpu_began_s: processor time of the process's other threads at its start; for a sample of ``def`` routes.
        queued_s: how long its steps waited for their turns at the loop; known of the requests that are measured.
        waited_s: how long it was paused: for its client's bytes, or for the first request with its key. That says nothing
            about the load. Its waits for a database connection are none of it: that line belongs to the gate, which keeps
            it short by letting fewer in when it grows.
        task: runs the request; None before and after.
        line: the connection it came on; None where the server does not tell.
        decision: resolved with None when it may start, with a `Refusal` when it may not; only if it had to wait.
        ended_by: why the gate cancelled it; None when it did not.
        slot: its place among those in work.
        paused_s: since when it waits for its client's bytes.
        is_reading: it waits for them, and holds no permit meanwhile.
        is_stream: its answer goes on for so long that it holds no permit any more.
    """

    # Defaults on the class: most requests never have another value, and setting ten attributes costs half a microsecond.
    end_s = 0.0
    held_s = -1.0
    cpu_began_s = -1.0
    queued_s = 0.0
    waited_s = 0.0
    paused_s = 0.0
    is_reading = False
    is_stream = False
    slot = -1
    ended_by: str | None = None
    decision: asyncio.Future[Refusal | None] | None = None
    task: asyncio.Task[Any] | None = None

    def __init__(self, habits: Habits, rank: int, arrived_s: float, line: Line | None, context: Any) -> None:
        self.habits = habits
        self.lane: Lane = habits.lane
        self.rank = rank
        self.arrived_s = arrived_s
        self.line = line
        self.context = context  # anything with a `status`, 0 until the answer has begun
        self.started_s = 0.0

    def __repr__(self) -> str:
        state = "waits" if self.decision is not None and not self.decision.done() else "runs"
        return f"<Ticket {self.lane.name} rank={self.rank} {state}>"

    @property
    def is_gone(self) -> bool:
        """Say whether its client has hung up."""
        return self.line is not None and self.line.is_gone

    def cancel(self, why: str) -> None:
        """End the request's work; the adapter takes the cancellation back where it arrives."""
        if self.task is not None and self.ended_by is None:
            self.ended_by = why
            self.task.cancel(why)


class Refusal:
    """Why a request may not start. One object per reason, made once."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<Refusal {self.reason}>"


MEMORY = Refusal("memory")  # its class is not served at this level
BODY = Refusal("body")  # too large for this level
AGE = Refusal("age")  # too old: its client has given up, or will before it is served
FULL = Refusal("full")  # more wait than may
DEADLINE = Refusal("deadline")  # it could not end in time
GONE = Refusal("gone")  # its client hung up; nobody is answered
EMERGENCY = Refusal("emergency")  # it was in work and given up for memory
CLOSED = Refusal("closed")  # the service ends
REFUSALS = (MEMORY, BODY, AGE, FULL, DEADLINE, GONE, EMERGENCY, CLOSED)
