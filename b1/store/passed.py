"""What leaves a table of this process for the same table of its successor: values, on the sender's monotonic clock."""

from __future__ import annotations

import enum
from typing import NamedTuple

# Keys of each table whose changes are noted while this process drains and a successor serves.
NEWS = 4096


class PassedClaim(NamedTuple):
    """A claim or record.

    Attributes:
        record: None while in flight.
        until_ms: end of the lease or of the record's life; 0: it was released.
        owed: the fence of its claim in Redis, 0 for none, when Redis is owed the record; None when it is not.
    """

    key: str
    fingerprint: bytes
    fence: int
    record: bytes | None
    until_ms: int
    is_mirror: bool = False
    owed: int | None = None


class PassedOffender(NamedTuple):
    """An offender; the first numbers are those of `b1.store.offences`.

    Attributes:
        added_ms: what its strikes since `watch` have added to `clear_ms`.
        is_pardoned: what was known of it at `watch` is forgotten.
    """

    key: str
    clear_ms: int
    until_ms: int
    level: int
    forget_ms: int
    added_ms: int = 0
    is_pardoned: bool = False


class PassedRing(NamedTuple):
    """A replay ring, or its newest part.

    Attributes:
        since: nothing that was appended after this id, and is still held there, is missing.
        dropped: nothing with this id or an older one is held there.
        entries: id and data, oldest first.
    """

    stream: str
    since: int
    dropped: int
    until_ms: int
    entries: tuple[tuple[int, bytes], ...]


class Received(enum.Enum):
    """What became of something that came from another process."""

    TAKEN = "taken"
    OWN = "own"  # this process had decided itself
    NO_ROOM = "no room"
