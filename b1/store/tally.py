"""What is told to Redis after it was away: windows in portable form, in batches that count once, and ring entries."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from b1.store.window import Part

_PART = Struct(">III")
_U32_MOST = 2**32 - 1
# Longer than any batch is tried again; see `Reconciler`.
_MARK_MS = 3_600_000


class Tally(NamedTuple):
    """The units of one key, oldest first."""

    key: str
    window_ms: int
    parts: list[Part]


class Drained(NamedTuple):
    """A bucket that was taken from here.

    Attributes:
        owed_us: what was taken here and has not flowed back.
        left_us: until it is full here.
        most_us: until an empty one is full.
    """

    key: str
    owed_us: int
    left_us: int
    most_us: int


class OwedEntry(NamedTuple):
    """An entry of a replay ring that was appended here."""

    stream: str
    id: int
    data: bytes
    keep: int
    keep_bytes: int
    ttl_ms: int


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


def asked_of(batch: Batch, waited_ms: int) -> list[str | int | bytes]:
    """Return a batch as ``lua/merge.lua`` takes it, behind the time; its tallies are `waited_ms` older than they say."""
    asked: list[str | int | bytes] = [_MARK_MS if batch.is_owed else ""]
    for tally in batch.tallies:
        parts = [_PART.pack(min(age_ms + waited_ms, _U32_MOST), known, owed) for age_ms, known, owed in tally.parts]
        asked += tally.window_ms, b"".join(parts)
    return asked
