"""Who waits for which reply, since when, and until when: the queue of one connection, without its socket.

Calls of one turn of the loop share a `Turn`: one write, one time stamp, one entry in the books. So what a call costs
here is two appends, and what is known of its age is exact to a turn.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, Protocol

Reply = asyncio.Future[Any]


class Receiver(Protocol):
    """Who is told a reply in the very call that read it; mostly a future, which tells its waiter in the next turn.

    Exactly one of the two is called, once, unless `done` says that nobody wants it any more. Neither may raise or wait.
    """

    def done(self) -> bool: ...

    def set_result(self, value: Any, /) -> None: ...

    def set_exception(self, error: Any, /) -> None: ...


class Turn:
    """The calls of one turn of the loop.

    Attributes:
        since_s, due_s: when it began, and when its calls have waited long enough.
        chunks: the packed commands; empty once they are written.
        count: its calls that have no reply yet.
        size: its bytes.
        is_open: the loop is still in this turn.
        is_overdue: its callers have been told.
        is_patient: nobody waits for a reply.
    """

    __slots__ = ("chunks", "count", "due_s", "is_open", "is_overdue", "is_patient", "since_s", "size")

    def __init__(self, since_s: float, due_s: float) -> None:
        self.since_s = since_s
        self.due_s = due_s
        self.chunks: list[bytes] = []
        self.count = 0
        self.size = 0
        self.is_open = True
        self.is_overdue = False
        self.is_patient = True


class Pending:
    """All calls without a reply, in the order in which they are sent and answered.

    A caller that gave up keeps its place: its reply still comes. `replies` is appended to by the wire's `submit` and
    read by its `data_received`, directly, because both are hot.
    """

    __slots__ = ("_hurried", "_numbers", "held_bytes", "replies", "turns")

    def __init__(self) -> None:
        self.replies: deque[Receiver] = deque()
        self.turns: deque[Turn] = deque()
        self.held_bytes = 0  # a turn's bytes count until its last reply came
        self._hurried: list[tuple[float, int, Receiver]] = []
        self._numbers = count()

    def __repr__(self) -> str:
        return f"Pending(calls={len(self.replies)}, turns={len(self.turns)}, held_bytes={self.held_bytes})"

    def begin(self, since_s: float, due_s: float) -> Turn:
        """Open a turn; the caller adds commands to its `chunks`, bytes to its `size` and to ours, futures to `replies`."""
        turn = Turn(since_s, due_s)
        self.turns.append(turn)
        return turn

    def end(self, turn: Turn) -> None:
        """The turn is over; what it holds is final."""
        turn.is_open = False
        turn.count = len(turn.chunks)

    def hurry(self, due_s: float, reply: Receiver) -> None:
        """This call must be answered before its turn is due."""
        heapq.heappush(self._hurried, (due_s, next(self._numbers), reply))

    def settled(self, replies: int) -> float | None:
        """Note that so many more replies came; return since when the first of their turns waited."""
        turns = self.turns
        since_s = turns[0].since_s if replies else None
        while replies:
            turn = turns[0]
            if replies < turn.count:
                turn.count -= replies
                break
            replies -= turn.count
            self.held_bytes -= turn.size
            turns.popleft()
        return since_s

    def next_due_s(self) -> float | None:
        """Return when the next call has waited long enough; None when nobody waits."""
        hurried = self._hurried
        while hurried and hurried[0][2].done():
            heapq.heappop(hurried)
        due_s = next((turn.due_s for turn in self.turns if not turn.is_overdue), None)
        if not hurried or (due_s is not None and due_s < hurried[0][0]):
            return due_s
        return hurried[0][0]

    def take_overdue(self, now_s: float) -> tuple[list[Receiver], float | None]:
        """Return the replies that were not there in time, and since when the last of the overdue turns waited.

        None for the latter: calls ran out of their own, shorter time only, which says nothing about the server.
        """
        late: list[Receiver] = []
        since_s: float | None = None
        at = 0
        for turn in self.turns:
            if turn.due_s > now_s:
                break
            calls = len(turn.chunks) if turn.is_open else turn.count
            if not turn.is_overdue:
                turn.is_overdue = not turn.is_open
                since_s = turn.since_s
                late += [reply for reply in islice(self.replies, at, at + calls) if not reply.done()]
            at += calls
        while self._hurried and self._hurried[0][0] <= now_s:
            reply = heapq.heappop(self._hurried)[2]
            if not reply.done():
                late.append(reply)
        return list(dict.fromkeys(late)), since_s

    def drop_unwanted(self, held: list[Turn]) -> None:
        """Forget calls of `held` turns, which were never sent, that nobody waits for any more.

        The turns are the last ones, but for one that may still be open.
        """
        tail = sum(len(turn.chunks) for turn in self.turns if turn.is_open)
        later = [self.replies.pop() for _ in range(tail)]
        replies = [self.replies.pop() for _ in range(sum(turn.count for turn in held))]
        for turn in held:
            wanted = [chunk for chunk in turn.chunks if self._keep(replies.pop())]
            self.held_bytes -= turn.size
            turn.chunks, turn.count, turn.size = wanted, len(wanted), sum(map(len, wanted))
            self.held_bytes += turn.size
        self.replies.extend(reversed(later))
        self.turns = deque(turn for turn in self.turns if turn.is_open or turn.count)

    def abandon(self) -> Iterator[Receiver]:
        """Empty everything and give out whom nobody answered."""
        replies = [reply for reply in self.replies if not reply.done()]
        self.replies.clear()
        self.turns.clear()
        self._hurried.clear()
        self.held_bytes = 0
        return iter(replies)

    def _keep(self, reply: Receiver) -> bool:
        if reply.done():
            return False
        self.replies.append(reply)
        return True
