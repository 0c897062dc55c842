"""What the map answers: a found value, a look at an entry, and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Found:
    """A stored value, as it was put.

    Attributes:
        value: opaque here; bytes may be a copy.
        meta: the small object that was put beside it.
        is_stale: its fresh time is over, or one of its tags was softly invalidated.
        expires_s: when its fresh time is over, on the monotonic clock.
    """

    __slots__ = ("expires_s", "is_stale", "meta", "value")

    def __init__(self, value: Any, meta: Any, is_stale: bool, expires_s: float) -> None:
        self.value = value
        self.meta = meta
        self.is_stale = is_stale
        self.expires_s = expires_s

    def __repr__(self) -> str:
        return f"<Found is_stale={self.is_stale} expires_s={self.expires_s}>"


Entry = Found


class Look(NamedTuple):
    """What an entry says to who does not use it.

    Attributes:
        is_used: it was read since it was put, as far as eviction remembers.
        is_read: since the last look that marked.
        expires_s: end of its fresh time, on the monotonic clock.
    """

    is_used: bool
    is_read: bool
    expires_s: float


@dataclass(frozen=True, slots=True)
class L1Snapshot:
    """What the map says about itself, in bytes.

    Attributes:
        held_bytes: accounted: touched pages, index, objects, and what remembers evicted keys.
        resident_bytes: touched pages of the segments alone.
        small_bytes: what waits in the small queue for its first use.
        returned_bytes: pages of segments given back to the system since the start.
        refused: values that were too large, or came when the system had no memory to map.
        tenants: those that hold the most, with their bytes; at most ten.
    """

    entries: int
    held_bytes: int
    limit_bytes: int
    ceiling_bytes: int
    resident_bytes: int
    segments: int
    small_bytes: int
    returned_bytes: int
    refused: int
    evictions: dict[str, int]
    tenants: tuple[tuple[str, int], ...]
