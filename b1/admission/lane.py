"""One kind of work: its permits, each class's share of them, and the queue in front. Pure: every call is told the time.

Permits as in Netflix' `AbstractPartitionedLimiter`: any class may use all of them, and when they are used up a class that
is below its share still gets in, over the limit. The queue as in Facebook's adaptive LIFO with a timeout after CoDel ("Fail
at Scale", 2015): first in, first out, until it has not been empty for `standing_s`; from then on the newest is served
first, because its client still waits, and what is older than `target_s` is refused. Classes take turns by stride
scheduling: each gets its share of the starts, and none starves.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from b1.admission.options import CLASSES, AdmissionOptions
from b1.admission.ticket import AGE, DEADLINE, FULL, GONE, Refusal, Ticket


class Lane:
    """Permits and queue.

    `running`, and `busy` by class, count permits that are out; the gate changes them on its fast path without a call.

    Args:
        is_strict: the limit is physical (threads, the core itself) and no share goes beyond it.
    """

    def __init__(self, name: str, limit: int, options: AdmissionOptions, *, is_strict: bool) -> None:
        self.name = name
        self.running = 0
        self.queued = 0
        self._options = options
        self.is_strict = is_strict
        self.busy = [0] * len(CLASSES)
        self._queues: tuple[deque[Ticket], ...] = tuple(deque() for _ in CLASSES)
        self._strides = [1.0 / share for share in options.shares]
        self._passes = [0.0] * len(CLASSES)
        self._now_pass = 0.0
        self._filled_s: float | None = None
        self._is_overloaded = False
        self.calm_until_s = 0.0  # until then a queue may stand without being overload
        self.usual_s = (
            0.0  # how long a request takes when nothing queues; 0 where unknown, or where the core is the limit
        )
        self.limit = 0
        self._reserved = [0] * len(CLASSES)
        self.set_limit(limit)

    def __repr__(self) -> str:
        return f"<Lane {self.name} running={self.running}/{self.limit} queued={self.queued}>"

    # Permits

    def set_limit(self, limit: int) -> None:
        """Change the limit; permits that are out stay out."""
        if limit == self.limit:
            return
        self.limit = limit
        if not self.is_strict:
            self._reserved = [math.floor(limit * share) for share in self._options.shares]

    def has_room(self, rank: int) -> bool:
        """Say whether a request of this class may start now."""
        return self.running < self.limit or self.busy[rank] < self._reserved[rank]

    def take(self, rank: int) -> None:
        """Use a permit."""
        self.running += 1
        self.busy[rank] += 1

    def give(self, rank: int) -> None:
        """Return a permit."""
        self.running -= 1
        self.busy[rank] -= 1

    # Queue

    def waiting(self, rank: int) -> int:
        """Return how many requests of a class wait."""
        return len(self._queues[rank])

    def is_standing(self, now_s: float) -> bool:
        """Say whether this is overload: the queue has not been empty for long, and somebody has waited too long in it.

        Both, because a few clients that ask again at once keep a queue filled for ever, and each of them is served in
        time. Once overloaded the lane stays so until its queue is empty.
        """
        if self._filled_s is None or now_s < self.calm_until_s:
            return False
        if not self._is_overloaded and now_s - self._filled_s > self._options.standing_s:
            age_s = self.oldest_age_s(now_s)
            is_alarming = self.queued >= self._options.alarm_requests or 2 * age_s > self._patience_s
            self._is_overloaded = is_alarming and age_s > max(self._options.alarm_s, self.usual_s)
        return self._is_overloaded

    def age_limit_s(self, now_s: float) -> float:
        """Return the age, in seconds, at which a request is refused now."""
        return self._options.target_s if self.is_standing(now_s) else self._patience_s

    @property
    def _patience_s(self) -> float:
        """As long as the request itself takes is no unreasonable wait."""
        return max(self._options.patience_s, self.usual_s)

    def oldest_age_s(self, now_s: float) -> float:
        """Return the age of the request that waits longest; 0 when none waits."""
        return max((now_s - queue[0].arrived_s for queue in self._queues if queue), default=0.0)

    def offer(self, ticket: Ticket, now_s: float) -> tuple[Ticket, Refusal] | None:
        """Let a request wait; return whom to refuse for it, which may be itself, or None.

        A full queue loses its oldest of the lowest class when that is lower than the newcomer's, or under overload, when
        the newest has the best chance. Otherwise it is the newcomer who is one too many.
        """
        out: tuple[Ticket, Refusal] | None = None
        if self.queued >= self._options.queue_limit:
            lowest = max(rank for rank, queue in enumerate(self._queues) if queue)
            if lowest < ticket.rank or (lowest == ticket.rank and not self.is_standing(now_s)):
                return ticket, FULL
            out = self._pop(lowest, newest=False), FULL
        if not self.queued:
            self._filled_s = now_s
        queue = self._queues[ticket.rank]
        if not queue:  # no credit for the time in which the class wanted nothing
            self._passes[ticket.rank] = max(self._passes[ticket.rank], self._now_pass)
        queue.append(ticket)
        self.queued += 1
        return out

    def withdraw(self, ticket: Ticket) -> None:
        """Take a request out of the queue, wherever it stands; harmless when it is not there."""
        try:
            self._queues[ticket.rank].remove(ticket)
        except ValueError:
            return
        self._left()

    def expire(self, now_s: float) -> Iterator[tuple[Ticket, Refusal]]:
        """Take out what waits for nothing: too old, past its deadline, or without a client."""
        limit_s = self.age_limit_s(now_s)
        for rank, queue in enumerate(self._queues):
            while queue and (why := _vain(queue[0], limit_s, now_s)) is not None:
                yield self._pop(rank, newest=False), why

    def refuse_from(self, rank: int) -> Iterator[Ticket]:
        """Take out everything of this class and the lower ones."""
        for lower in range(rank, len(CLASSES)):
            while self._queues[lower]:
                yield self._pop(lower, newest=False)

    def next(self, now_s: float) -> Ticket | None:
        """Return the request that starts now, with its permit taken; None when none may."""
        chosen = -1
        for rank, queue in enumerate(self._queues):
            if queue and self.has_room(rank) and (chosen < 0 or self._passes[rank] < self._passes[chosen]):
                chosen = rank
        if chosen < 0:
            return None
        ticket = self._pop(chosen, newest=self.is_standing(now_s))
        self._now_pass = self._passes[chosen]
        self._passes[chosen] += self._strides[chosen]
        self.take(chosen)
        return ticket

    def _pop(self, rank: int, *, newest: bool) -> Ticket:
        ticket = self._queues[rank].pop() if newest else self._queues[rank].popleft()
        self._left()
        return ticket

    def _left(self) -> None:
        self.queued -= 1
        if not self.queued:
            self._filled_s = None
            self._is_overloaded = False


def _vain(ticket: Ticket, limit_s: float, now_s: float) -> Refusal | None:
    if ticket.is_gone:
        return GONE
    if now_s - ticket.arrived_s > limit_s:
        return AGE
    if now_s >= ticket.end_s:
        return DEADLINE
    return None
