"""Whether the server answers, and when to try again: one attempt at a time, with jittered backoff, while it is away.

Arithmetic without await. Callers are told at once while the server is known to be away: it is back within about a
second of its return whoever asks, and callers that queue behind a dead server only arrive late at the same answer.
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
    """

    def __init__(self, clock: Clock, randomness: random.Random | None = None) -> None:
        self.away_since_s: float | None = None
        self.reason = ""
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
        self.away_since_s = self._clock.monotonic()
        return True

    def find(self) -> bool:
        """Hear that the server answered; True when that is news."""
        self._failures = 0
        self._not_before_s = 0.0
        if self.away_since_s is None:
            return False
        self.away_since_s = None
        self.reason = ""
        return True
