"""What is published when versions move, and how the table lies in the server: formats of ``lua/shared/versions.lua``."""

from __future__ import annotations

import operator
import sys
from array import array
from struct import Struct
from typing import NamedTuple

from b1.store.versions import REDIS_BUCKETS, VERSION_BYTES

# Of the table: its epoch, and the number of its last change.
HEAD = Struct(">8sQ")
TABLE_BYTES = REDIS_BUCKETS * VERSION_BYTES
_CHANGE = Struct(">8sQ8s")
_MOVED = Struct(">I4s")


class Change(NamedTuple):
    """What was published: the epoch after it, its number, the epoch before it, and place and version of what moved."""

    epoch: bytes
    number: int
    before: bytes
    moved: tuple[tuple[int, bytes], ...]


def understood(message: bytes) -> Change | None:
    """Take a message apart; None when it is none."""
    if len(message) < _CHANGE.size or (len(message) - _CHANGE.size) % _MOVED.size:
        return None
    pairs = _MOVED.iter_unpack(message[_CHANGE.size :])
    moved = tuple((bucket * VERSION_BYTES, version) for bucket, version in pairs if bucket < REDIS_BUCKETS)
    epoch, number, before = _CHANGE.unpack_from(message)
    return Change(epoch, number, before, moved)


def any_lower(new: bytes, old: bytearray) -> bool:
    """Say whether a version is lower than it was; both are tables without their heads."""
    theirs, ours = array("I", new), array("I", bytes(old))
    if sys.byteorder == "little":
        theirs.byteswap()
        ours.byteswap()
    return any(map(operator.lt, theirs, ours))
