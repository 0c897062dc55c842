"""What the clients of one kind saw. A request without a whole answer counts; nothing is retried in silence."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 4


@dataclass(slots=True)
class Tally:
    """Counts of one kind of client.

    Attributes:
        lost: the connection ended after the whole request was sent (of an upload: begun), without a byte of an answer.
        told: those of `lost` that stood behind an answer with ``Connection: close`` on a pipelined connection: HTTP lets
            the client send them again, but they were sent and not answered.
        cut: an answer began and did not end.
        refused: the connection could not be opened.
        late: no whole answer within the limit.
        wrong: by status, whatever was not expected.
        closed: kept connections that the server ended while nothing was asked; no loss.
        ended_early: streams that the server ended in order before their time; no loss.
        longest_wait_s: from a request's first byte to its answer's last.
    """

    answered: int = 0
    lost: int = 0
    told: int = 0
    cut: int = 0
    refused: int = 0
    late: int = 0
    wrong: Counter[int] = field(default_factory=Counter)
    closed: int = 0
    ended_early: int = 0
    longest_wait_s: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Requests that got no whole answer, for whatever reason."""
        return self.lost + self.cut + self.refused + self.late

    def example(self, what: str) -> None:
        """Keep a few of the failures with their moment."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{time.monotonic():.3f} {what}")

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self) | {"wrong": {str(status): count for status, count in self.wrong.items()}}

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Tally:
        return cls(**members | {"wrong": Counter({int(name): count for name, count in members["wrong"].items()})})


@dataclass(slots=True)
class Overall:
    """What all clients together saw.

    Attributes:
        longest_pause_s: the longest time in which nobody got an answer; streams and uploads aside.
        paused_at_s: when it ended, monotonic.
    """

    answered: int = 0
    workers: set[int] = field(default_factory=set)
    longest_pause_s: float = 0.0
    paused_at_s: float = 0.0
    last_s: float = 0.0

    def note(self, now_s: float, worker: int) -> None:
        """Count one answer of a quick request."""
        self.answered += 1
        self.workers.add(worker)
        if self.last_s and now_s - self.last_s > self.longest_pause_s:
            self.longest_pause_s, self.paused_at_s = now_s - self.last_s, now_s
        self.last_s = now_s
