"""What a decision takes into account besides its charges: who is on probation, who holds the leases, and force.

It travels with the charges, so that one round trip decides all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class PenaltyRule:
    """How offences add up to a block, and how both are forgotten.

    Attributes:
        threshold: strikes at which the block begins.
        decay_ms: one strike is forgotten each time this passes.
        blocks_ms: length of the first, second, ... block; the last one repeats.
        forget_ms: after so long without a block the next one is a step shorter.
        apart_ms: refusals of decisions that follow one another faster count as one strike: a burst that overshoots once
            is no offence, going on is. `Store.penalise` counts what it is told.

    Raises:
        ValueError: a number is below 1 (`apart_ms`: below 0), or there is no block.
    """

    threshold: int = 10
    decay_ms: int = 60_000
    blocks_ms: tuple[int, ...] = (60_000, 300_000, 3_600_000)
    forget_ms: int = 3_600_000
    apart_ms: int = 1000

    def __post_init__(self) -> None:
        least = min(self.threshold, self.decay_ms, self.forget_ms, self.apart_ms + 1, *self.blocks_ms)
        if not self.blocks_ms or least < 1:
            raise ValueError(f"{self!r} has a number below 1 or no block")


class Penalty(NamedTuple):
    """The answer of `Store.penalise`.

    Attributes:
        blocked_ms: how long the caller is still shut out; 0 when it is not.
        strikes: that count now, towards the next block.
        level: blocks so far that are not forgotten.
    """

    blocked_ms: int
    strikes: int
    level: int


@dataclass(frozen=True, slots=True)
class Offender:
    """Who is struck when a charge refuses, and refused whatever the charges say while it is shut out.

    Attributes:
        key: complete name, as of `Store.penalise`.
        rule: how strikes add up.
        strikes: what one refusal counts; 0 only asks whether the caller is shut out.
        knocks: offences during the last block that the caller was spared the question for. They count first: whoever
            kept knocking is shut out again at once, and longer; whoever waited as told has none.

    Raises:
        ValueError: a number is below 0.
    """

    key: str
    rule: PenaltyRule
    strikes: int = 1
    knocks: int = 0

    def __post_init__(self) -> None:
        if min(self.strikes, self.knocks) < 0:
            raise ValueError(f"strikes and knocks are {self.strikes} and {self.knocks}, expected 0 or more")


class Terms(NamedTuple):
    """The conditions of one `Store.spend`.

    Attributes:
        offender: None: nobody is struck.
        holder: names the leases that are taken, uniquely; needed where a charge is a lease.
        is_forced: take it whether it fits or not, and strike nobody: a settlement of work that is done. A window then
            counts more than its quota; a bucket is at most empty.
    """

    offender: Offender | None = None
    holder: str = ""
    is_forced: bool = False


PLAIN = Terms()
