"""What is asked of the shared cache, what it answers, and what it is given to keep; part of `Store.enter`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

# Tags of one cache read; each costs the server about half a microsecond.
MAX_TAGS = 64


@dataclass(frozen=True, slots=True)
class CacheRead:
    """What `Store.enter` should read from the shared cache.

    Attributes:
        key: of the entry; None: nothing is read, only the versions of the tags are wanted.
        tags: what the entry depends on, in an order that stays the same.
        lease_ms: above 0 a miss makes the caller the loader for so long, unless somebody else loads already.
        held: the vector of a copy that the caller has; while it is current, nothing is sent.

    Raises:
        ValueError: more tags than `MAX_TAGS`, or a lease without a key.
    """

    key: str | None
    tags: tuple[str, ...] = ()
    lease_ms: int = 0
    held: bytes | None = None

    def __post_init__(self) -> None:
        if len(self.tags) > MAX_TAGS:
            raise ValueError(f"a cache read has {len(self.tags)} tags, expected {MAX_TAGS} at most")
        if self.lease_ms < 0 or (self.lease_ms and self.key is None):
            raise ValueError(f"lease_ms is {self.lease_ms}, expected 0 or more, and 0 where no entry is read")


class CacheState(enum.Enum):
    """What a cache read found."""

    HIT = "hit"  # the value is current and in the answer
    CURRENT = "current"  # the copy that the caller holds is still good
    LEASED = "leased"  # nothing current is there and the caller should load it
    LOADING = "loading"  # nothing current is there and somebody loads it
    MISS = "miss"  # nothing current is there and no lease was asked for
    STALE = "stale"  # the value is in the answer; its fresh time is over, or it was invalidated softly


class CacheAnswer(NamedTuple):
    """The cache part of `Store.enter`.

    Attributes:
        value: only with HIT and STALE.
        left_ms: with HIT and STALE how long the entry still lives, with LOADING how long the other's lease does, else 0.
        vector: the versions of the tags now. Opaque; two are equal while nothing was invalidated in between, in the
            same store (`b1.store.versions.compare` says how they differ). Take it before a load and give it to
            `Store.store_if_unchanged` after. With STALE it is not what the value was built on.
        fresh_ms: with HIT how long the entry stays fresh, else 0.
        has_lease: with STALE, the caller is the loader now. LEASED says so by itself.
    """

    state: CacheState
    value: bytes | None
    left_ms: int
    vector: bytes
    fresh_ms: int = 0
    has_lease: bool = False


class CacheWrite(NamedTuple):
    """What `Store.store_many` should keep: the arguments of one `Store.store_if_unchanged`."""

    key: str
    value: bytes | None
    tags: tuple[str, ...]
    vector: bytes
    ttl_ms: int
    fresh_ms: int | None = None
