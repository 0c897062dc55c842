"""What is kept of one value, and how it becomes bytes and comes back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from b1.buffers import exact
from b1.cache.packing.codec import RAW

# A kept exception; no envelope has this flag, because exceptions stay in their process.
ERROR = 256
# -ln of a random number is above this once in 160 000 times.
_FARTHEST = 12.0
# Whoever finds the end of a value that loads faster than this waits no longer than that.
_WORTH_IT_S = 0.002


class Meta:
    """What stands beside a value in L1 when it needs more than its time. Times are this process's monotonic seconds.

    Attributes:
        early_from_s: before this a reload is not even considered; it is `_FARTHEST` load times before the end.
        delta_s: how long the load took, times the eagerness.
        created_ms: wall clock, milliseconds since 1970.
        flags: as in the envelope, and `ERROR`.
        reads: from L1, since it was put there.
    """

    __slots__ = ("created_ms", "delta_s", "early_from_s", "flags", "reads")

    def __init__(self, fresh_until_s: float, delta_s: float, created_ms: int, flags: int) -> None:
        self.early_from_s = fresh_until_s - delta_s * _FARTHEST
        self.delta_s = delta_s
        self.created_ms = created_ms
        self.flags = flags
        self.reads = 0

    def __repr__(self) -> str:
        return f"<Meta early_from_s={self.early_from_s:.3f} flags={self.flags} reads={self.reads}>"

    def is_due(self, now_s: float, random: Callable[[], float]) -> bool:
        """Say whether to load anew before the end: XFetch, "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015).

        Due when ``now - delta * beta * ln(random) >= expiry``: the nearer the end and the dearer the load, the likelier,
        so that one of many readers reloads while the others still read.
        """
        ahead_s = -self.delta_s * math.log(1.0 - random())
        return now_s + ahead_s >= self.early_from_s + self.delta_s * _FARTHEST


def meta_of(fresh_until_s: float, delta_s: float, created_ms: int, flags: int) -> Meta | None:
    """Return what is worth remembering, None for a plain value that is loaded quickly: most are, and each byte counts."""
    if not flags and delta_s < _WORTH_IT_S:
        return None
    return Meta(fresh_until_s, delta_s, created_ms, flags)


class Value(NamedTuple):
    """A value as it goes to those who wait for it: bytes, or a kept exception."""

    data: Any
    flags: int


def encode(value: object) -> Value:
    """Return the value as bytes: bytes as they are, everything else as JSON.

    Raises:
        TypeError: it is no JSON value (datetimes, UUIDs and dataclasses are, as orjson writes them).
    """
    if isinstance(value, bytes):
        return Value(value, RAW)
    try:
        return Value(exact(orjson.dumps(value)), 0)
    except TypeError as error:
        raise TypeError(f"a value of type {type(value).__name__} cannot be cached: {error}") from error


def decode(value: Value, typed: Callable[[bytes], Any] | None) -> Any:
    """Return what the caller gets: parsed anew for each, so that nobody changes what another reads.

    Raises:
        Exception: what was kept in place of a value.
    """
    if value.flags:
        if value.flags & ERROR:
            raise copy.copy(value.data)
        if value.flags & RAW and typed is None:
            return value.data
    return orjson.loads(value.data) if typed is None else typed(value.data)


def is_kept_safely(error: Exception) -> bool:
    """Say whether an exception can be raised again for each caller: a shared one would carry everybody's traceback."""
    try:
        return type(copy.copy(error)) is type(error)
    except Exception:  # noqa: BLE001 - its constructor wants more than its arguments; then it is not kept
        return False
