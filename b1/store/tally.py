"""What is told to Redis about limits after it was away: windows in portable form, in batches that count once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from b1.store.window import Part


class Tally(NamedTuple):
    """The units of one key, oldest first."""

    key: str
    window_ms: int
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some tallies that are applied together, and only once.

    Attributes:
        name: unique, so that the server knows a repetition.
        tallies: as they were when the batch was made.
        made_ms: when that was, on the local monotonic clock: until it arrives, everything in it grows older.
        is_owed: it holds units that Redis has never counted; one that does not may be applied again without harm.
    """

    name: str
    tallies: tuple[Tally, ...]
    made_ms: int
    is_owed: bool
