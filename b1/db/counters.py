"""What a database says about itself: counters that only grow, and the frozen view that health, metrics and tests read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from b1.db.load import LoadSnapshot
from b1.db.statements import StatementSnapshot


@dataclass(slots=True)
class Counters:
    """Events since the start; written by the pool alone.

    Attributes:
        acquired: leases given.
        waited: leases that were waited for.
        refused: callers turned away because their class of the queue was full or their tenant had its share of it.
        hopeless: callers turned away at once because their time would have been over before their turn or their answer.
        timeouts: callers whose wait ended at its deadline.
        cancels: queries abandoned by their caller.
        opened: connections made.
        yielded: connections closed for another process.
        lost: connections that ended in an unknown way.
        wait_s: seconds that callers waited in all, successful or not.
    """

    acquired: int = 0
    waited: int = 0
    refused: int = 0
    hopeless: int = 0
    timeouts: int = 0
    cancels: int = 0
    opened: int = 0
    yielded: int = 0
    lost: int = 0
    wait_s: float = 0.0

    def copy(self) -> Counters:
        return replace(self)


class Holder(NamedTuple):
    """Who holds a lease, for how long, and in which class."""

    task: str
    held_s: float
    priority: str


@dataclass(frozen=True, slots=True)
class DatabaseSnapshot:
    """The state of one `Database`, without I/O.

    Attributes:
        limit: connections that the whole host may hold.
        in_use: of this process: leased, being cleaned after a lease, or on an errand of ours.
        idle: of this process, free.
        waiting: callers in the queue.
        opening: attempts to connect, `resting` included.
        resting: attempts that wait until the slot's last connection is known to be gone.
        closing: connections being closed in an orderly way.
        connected: this process has a connection, and the server answers as far as is known.
        away_since: since when the server is known not to answer, on the monotonic clock; None while it does.
        away_s: seconds since then, 0 while it answers.
        away_reason: what was seen, in a word or two; never the URL.
        holders: the open leases, oldest first.
        counters: events since the start.
        silent_s: how long the server has owed an answer, 0 when it owes none.
        load: how busy the connections are, and how long callers wait.
        statements: the statements that took most time, the dearest first.
        slow_queries: statements over the threshold of the slow-query log, since the start.
    """

    limit: int
    in_use: int
    idle: int
    waiting: int
    opening: int
    resting: int
    closing: int
    connected: bool
    away_since: float | None
    away_s: float
    away_reason: str
    holders: tuple[Holder, ...]
    counters: Counters
    silent_s: float = 0.0
    load: LoadSnapshot = LoadSnapshot()
    statements: tuple[StatementSnapshot, ...] = ()
    slow_queries: int = 0
