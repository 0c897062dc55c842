"""Whether the server answers, and when to try again: one attempt at a time, with jittered backoff, while it is away.

Arithmetic without await. A frozen server says nothing at all, so absence counts from the oldest question that got no
answer, not from when somebody gave up; a question that its caller abandoned stays open until the server says anything.
Callers are told at once while the server is known to be away: it is back within about a second of its return whoever
asks, and callers that queue behind a dead server only arrive late at the same answer.
"""

from __future__ import annotations

import random

from b1.clock import Clock

BACKOFF_S = (0.1, 0.2, 0.4, 0.8)


class Reach:
    """The state of the way to the server.

    Attributes:
        away_since_s: monotonic; None while the server answers as far as is known.
        reason: what was seen, for people.
        answered_s: when a query last ended with an answer; written by whoever ran it.
        silent_since_s: since when a question waits and nothing at all was heard; None while none does.
    """

    def __init__(self, clock: Clock, randomness: random.Random | None = None) -> None:
        self.away_since_s: float | None = None
        self.reason = ""
        self.answered_s = float("-inf")
        self.silent_since_s: float | None = None
        self._heard_s = float("-inf")
        self._lost_s = 0.0
        self._clock = clock
        self._random = randomness or random.Random()
        self._failures = 0
        self._not_before_s = 0.0

    def __repr__(self) -> str:
        state = "reachable" if self.away_since_s is None else f"away reason={self.reason!r}"
        return f"<Reach {state} failures={self._failures}>"

    @property
    def is_away(self) -> bool:
        return self.away_since_s is not None

    @property
    def may_try(self) -> bool:
        return self._clock.monotonic() >= self._not_before_s

    @property
    def silent_s(self) -> float:
        """How long the server has owed an answer."""
        return 0.0 if self.silent_since_s is None else self._clock.monotonic() - self.silent_since_s

    @property
    def has_answered_since(self) -> bool:
        """Whether a query was answered after the server was thought to be away."""
        return self.is_away and self.answered_s > self._lost_s

    def look(self, oldest_question_s: float | None) -> None:
        """Bring the silence up to date, given when the oldest question without an answer was asked."""
        heard_s = max(self._heard_s, self.answered_s)
        if self.silent_since_s is not None and self.silent_since_s < heard_s:
            self.silent_since_s = None
        if self.silent_since_s is None and oldest_question_s is not None:
            self.silent_since_s = max(oldest_question_s, heard_s)

    def hear(self) -> None:
        """Hear anything from the server; it need not serve for that."""
        self._heard_s = self._clock.monotonic()
        self.silent_since_s = None

    def back_off(self) -> None:
        """Hear that an attempt to connect failed; the next one has to wait."""
        longest_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self._not_before_s = self._clock.monotonic() + longest_s * self._random.uniform(0.5, 1.0)

    def lose(self, reason: str) -> bool:
        """Hear that the server does not answer; True when that is news."""
        self.reason = reason
        if self.away_since_s is not None:
            return False
        self._lost_s = self._clock.monotonic()
        self.away_since_s = self._lost_s if self.silent_since_s is None else self.silent_since_s
        return True

    def find(self) -> bool:
        """Hear that the server answered; True when that is news."""
        self._failures = 0
        self._not_before_s = 0.0
        self.hear()
        if self.away_since_s is None:
            return False
        self.away_since_s = None
        self.reason = ""
        return True
