"""Transitions that wait to be delivered: bounded, ordered, and honest about what it drops. Pure.

When it is full, the oldest message that a later one of the same alert makes obsolete goes first, the mildest before the
critical ones: the receiver may miss that something was wrong for a while, and still ends up knowing what is wrong now.
"""

from __future__ import annotations

from collections.abc import Iterator

from b1.alerts.alert import Transition

# A message that failed this often no longer goes before others, whatever its severity: the receiver may dislike it alone.
PATIENCE_ATTEMPTS = 5


class Outbox:
    """What has not been delivered.

    Attributes:
        mark: names everything that was put so far; see `release`.

    Args:
        limit: messages it holds.
        keep_s: a message older than this is of no use to anybody. Ages are of the monotonic clock: a wall clock that
            is put right by years loses nothing.
    """

    def __init__(self, *, limit: int, keep_s: float) -> None:
        self.dropped = 0
        self._limit = limit
        self._keep_s = keep_s
        self._waiting: dict[str, Transition] = {}
        self._attempts: dict[str, int] = {}
        self._ends_s: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._released = 0
        self.mark = 0

    def __repr__(self) -> str:
        return f"<Outbox {len(self._waiting)}/{self._limit} dropped={self.dropped}>"

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Transition]:
        return iter(list(self._waiting.values()))

    def put(self, transition: Transition, now_s: float, *, age_s: float = 0.0) -> Transition | None:
        """Add one at `now_s` (monotonic); return the one that had to go for it.

        Args:
            age_s: how old it was when it came here, by the wall clock that it crossed processes with.
        """
        self._waiting[transition.id] = transition
        self._ends_s[transition.id] = now_s + self._keep_s - max(0.0, age_s)
        self.mark += 1
        self._numbers[transition.id] = self.mark
        if len(self._waiting) <= self._limit:
            return None
        loser = self._loser()
        self._drop(loser)
        return loser

    def release(self, mark: int) -> None:
        """Let those be sent that were put up to `mark`: what survives this process knows of them."""
        self._released = max(self._released, mark)

    def next(self) -> Transition | None:
        """Return the one to send now, of those released: in order for each alert, the critical ones first."""
        heads: dict[str, Transition] = {}
        for transition in self._waiting.values():
            if self._numbers[transition.id] > self._released:
                break
            heads.setdefault(transition.alert.name, transition)
        return min(heads.values(), key=self._urgency, default=None)

    def attempts(self, transition: Transition) -> int:
        """Return how often this process tried it."""
        return self._attempts.get(transition.id, 0)

    def note_failure(self, transition: Transition) -> None:
        """Count one attempt that failed."""
        if transition.id in self._waiting:
            self._attempts[transition.id] = self.attempts(transition) + 1

    def settle(self, transition: Transition) -> None:
        """It was delivered."""
        self._waiting.pop(transition.id, None)
        self._attempts.pop(transition.id, None)
        self._ends_s.pop(transition.id, None)
        self._numbers.pop(transition.id, None)

    def expire(self, now_s: float) -> int:
        """Drop what is too old at `now_s` (monotonic); return how many."""
        old = [one for one in self._waiting.values() if now_s > self._ends_s[one.id]]
        for transition in old:
            self._drop(transition)
        return len(old)

    def clear(self) -> int:
        """Drop everything; return how many."""
        count = len(self._waiting)
        for transition in self:
            self._drop(transition)
        return count

    def _urgency(self, transition: Transition) -> tuple[int, int]:
        return self.attempts(transition) // PATIENCE_ATTEMPTS, -transition.alert.severity.rank

    def _loser(self) -> Transition:
        latest = {transition.alert.name: transition.id for transition in self._waiting.values()}
        return min(
            self._waiting.values(),
            key=lambda one: (latest[one.alert.name] == one.id, one.alert.severity.rank),
        )

    def _drop(self, transition: Transition) -> None:
        self.settle(transition)
        self.dropped += 1
