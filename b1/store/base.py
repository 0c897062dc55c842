"""The store's verbs: a few atomic operations that memory and Redis both offer, each one round trip.

A verb either happens completely or not at all. Time comes from the store (the server's clock for Redis), so that two
callers never disagree about a window. Keys are complete names without the namespace; a store puts its prefix in front.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from b1.store.reads import MAX_TAGS as MAX_TAGS
from b1.store.reads import CacheAnswer as CacheAnswer
from b1.store.reads import CacheRead as CacheRead
from b1.store.reads import CacheState as CacheState
from b1.store.reads import CacheWrite as CacheWrite
from b1.store.terms import Penalty as Penalty
from b1.store.terms import PenaltyRule as PenaltyRule
from b1.store.terms import Terms
from b1.types import VersionSource

# Counters are 32 bits wide in Redis; half of that keeps every sum far from the edge.
MAX_UNITS = 2**31 - 1
# 60 of these make a counter's index; together with milliseconds since 1970 they stay exact in Lua's doubles.
MAX_WINDOW_MS = 2**31 - 1
Kind = Literal["window", "bucket", "lease"]
# Somebody may give a lease back at any moment; this is when it is worth asking again.
LEASE_RETRY_MS = 1000
# How long a claim whose lease ran out stays fenced, so that its owner may still finish if nobody took it over.
GRACE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Charge:
    """One policy applied to one caller: take `cost` units from `quota` per `window_ms`.

    ``window``: a precise sliding window of 61 counters of ``window_ms / 60`` each, the oldest counted whole: never more
    than `quota` units in any window of that length; capacity comes back at most ``window_ms / 60`` late.
    ``bucket``: GCRA. A unit flows back every ``window_ms / quota`` (rounded up to whole microseconds), `burst` units may
    be taken at once; so at most ``burst + quota`` in any window of that length.
    ``lease``: at most `quota` units are held at a time; they come back by `Store.refund`, or `window_ms` after they
    were taken.

    Keys within one `Store.spend` must differ. A key whose `window_ms` changes starts an empty window.

    Attributes:
        cost: 0 only looks.
        shadow: counted and reported, but it refuses nobody.
        kind: what counts.
        burst: of a bucket; 0: the quota.

    Raises:
        ValueError: a number is out of range.
    """

    key: str
    quota: int
    window_ms: int
    cost: int = 1
    shadow: bool = False
    kind: Kind = "window"
    burst: int = 0

    def __post_init__(self) -> None:
        if self.kind == "bucket" and not (self.quota and self.every_us * self.depth <= MAX_WINDOW_MS * 1000):
            raise ValueError(
                f"a bucket of {self.depth} units, {self.quota} in {self.window_ms} ms, takes too long to fill"
            )
        if not 0 <= self.quota <= MAX_UNITS:
            raise ValueError(f"quota is {self.quota}, expected 0 to {MAX_UNITS}")
        if not 1 <= self.window_ms <= MAX_WINDOW_MS:
            raise ValueError(f"window_ms is {self.window_ms}, expected 1 to {MAX_WINDOW_MS}")
        if not 0 <= self.cost <= MAX_UNITS:
            raise ValueError(f"cost is {self.cost}, expected 0 to {MAX_UNITS}")

    @property
    def every_us(self) -> int:
        """How long a bucket takes for one unit, in microseconds."""
        return -(-self.window_ms * 1000 // self.quota)

    @property
    def depth(self) -> int:
        """How many units a full bucket holds."""
        return self.burst or self.quota


class Balance(NamedTuple):
    """Where one policy stands after the decision. A tuple, because several are built for every request.

    Attributes:
        allowed: this policy alone would let the request pass.
        used: units counted in the window now, this request included if all policies allowed it.
        remaining: units left, never negative.
        retry_after_ms: 0 when allowed; else when `cost` units are free again; -1 when `cost` exceeds the quota.
        renew_ms: until the first unit comes back when none remains; 0 while some remain.
        reset_ms: until nothing is counted any more if nobody calls; 0 for an empty window.
    """

    allowed: bool
    used: int
    remaining: int
    retry_after_ms: int
    renew_ms: int
    reset_ms: int


class Spent(NamedTuple):
    """The answer of `Store.spend`: one decision for all charges, in the order they were given.

    Attributes:
        now_ms: the store's wall clock, in milliseconds since 1970.
        penalty: where the offender of the terms stands after the decision; None without one. While it is shut out
            nothing is allowed, whatever the balances say.
    """

    allowed: bool
    now_ms: int
    balances: tuple[Balance, ...]
    penalty: Penalty | None = None


class ClaimState(enum.Enum):
    """What a claim found."""

    CLAIMED = "claimed"  # the caller owns the key now and must finish or release it
    IN_FLIGHT = "in_flight"  # somebody else owns it and lives
    FINISHED = "finished"  # done before; the record is in the answer
    MISMATCH = "mismatch"  # the key exists with another fingerprint, in flight or finished


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer of `Store.claim`.

    Attributes:
        state: what was found.
        record: the stored record, only with FINISHED.
        fence: grows with each claim of the key; only the holder of the newest may finish, renew or release.
            With CLAIMED the caller's own; with IN_FLIGHT that of an owner that `is_owner_gone`, for whom the caller may
            release the claim.
        retry_after_ms: how long the present owner's lease still runs, only with IN_FLIGHT.
        fingerprint: what the key was claimed with, only with MISMATCH, and only where the store could tell.
        is_owner_gone: the owner was a process of this host and has ended; only with IN_FLIGHT.
    """

    state: ClaimState
    record: bytes | None = None
    fence: int = 0
    retry_after_ms: int = 0
    fingerprint: bytes = b""
    is_owner_gone: bool = False


class Entered(NamedTuple):
    """The answer of `Store.enter`; `cache` is None when nothing was asked for or a policy refused."""

    spent: Spent
    cache: CacheAnswer | None


class StreamEntry(NamedTuple):
    """One entry of a replay ring; ids only grow, also across a loss of the store's data."""

    id: int
    data: bytes


class Replay(NamedTuple):
    """The answer of `Store.read_since`.

    Attributes:
        entries: oldest first, at most as many as were asked for.
        is_complete: nothing between the id that was given and the first entry has been dropped. False also when the
            ring is gone, since nobody knows what it held.
    """

    entries: tuple[StreamEntry, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """What a store says about itself.

    `mode`: ``memory`` (no Redis configured), ``redis``, or ``local`` (Redis is configured and away).
    It says what is true of the store as a whole; a single key that Redis cannot serve does not change it.
    `keys` and `held_bytes` are this process's own; a Redis server's are not ours to count on a request path.
    """

    mode: str
    connected: bool
    keys: int
    held_bytes: int
    limit_bytes: int
    round_trips: int
    errors: int
    latency_ms: float | None


class Store(Protocol):
    """Atomic verbs over memory or Redis.

    Every verb raises `StoreUnavailable` when the store cannot answer within its deadline, and nothing else on purpose.
    """

    @property
    def mode(self) -> str:
        """Return ``memory``, ``redis`` or ``local``, as in the snapshot; cheap enough for every request."""
        ...

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        """Take from all charges or from none; with ``commit=False`` only look."""
        ...

    async def enter(
        self, charges: Sequence[Charge], *, read: CacheRead | None = None, terms: Terms | None = None
    ) -> Entered:
        """Do all that a request without a body needs, in one round trip: spend, then read.

        When a policy refuses, nothing is read. Without charges it is a cache read: the value if it is current, else
        the lease to load it, or the news that somebody else does. A value that is only stale comes with the lease.
        """
        ...

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        """Do of `enter` what concerns the cache, for many entries in one round trip; answers come in their order."""
        ...

    async def store_if_unchanged(
        self,
        key: str,
        value: bytes | None,
        *,
        tags: tuple[str, ...],
        vector: bytes,
        ttl_ms: int,
        fresh_ms: int | None = None,
    ) -> bool:
        """Keep a loaded value unless one of its tags was invalidated since `vector` was taken, and end the lease.

        Args:
            value: None gives the lease up without a value, so that the next caller may load.
            tags: those of the read that gave `vector`, in the same order.
            vector: taken before the load began; one taken after it proves nothing.
            ttl_ms: how long the entry lives.
            fresh_ms: after which part of its life a read answers STALE; None: never.

        Returns:
            False when something moved, or when there is no room; nothing is kept then.
        """
        ...

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]:
        """Do what `store_if_unchanged` does, for many entries in one round trip."""
        ...

    @property
    def versions(self) -> VersionSource:
        """Return the versions of tags as this process knows them; no I/O."""
        ...

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        """Do of `invalidate` what needs no I/O: from here on no read in this process gives an older value."""
        ...

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        """Make stale all that depends on one of the tags, also what is being loaded; None means everything.

        Call it after the change was committed. When it returns, no read through this store gives an older value; for
        other processes' copies, and for what holds while Redis is away, see docs/explanation/cache.md.

        Args:
            soft: tags of which dependent values may still be served as STALE, while somebody loads them anew.
        """
        ...

    @property
    def owes_invalidations(self) -> bool:
        """Whether Redis has not been told yet of something that was invalidated here."""
        ...

    async def barrier(self) -> bool:
        """Make one trip; True: what had been invalidated anywhere when it began is in `versions` now.

        Only for a program that reads its copies without any trip of its own before; False: Redis is away, or does not
        push in order.
        """
        ...

    async def penalise(self, key: str, rule: PenaltyRule, *, strikes: int = 1, pardon: bool = False) -> Penalty:
        """Count offences, and shut the caller out when there are too many.

        Args:
            strikes: 0 only looks. Strikes during a block are not counted: it ends when it was said to.
            pardon: forget all that was counted before.
        """
        ...

    async def append(self, stream: str, data: bytes, *, keep: int, keep_bytes: int, ttl_ms: int) -> int:
        """Add to the end of a replay ring and return the new entry's id.

        The oldest entries are dropped while there are more than `keep`, or their data is more than `keep_bytes`
        (the newest stays); a ring to which nothing is added for `ttl_ms` goes.
        """
        ...

    async def read_since(self, stream: str, after: int, *, limit: int) -> Replay:
        """Return what a ring still holds after the entry `after`; 0 for all of it."""
        ...

    async def refund(self, charges: Sequence[Charge], *, holder: str = "") -> None:
        """Give each charge's cost back, newest units first, never below an empty window; of a lease, the holder's."""
        ...

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        """Become the owner of `key`, or learn who is. A dead owner's lease runs out and is taken over."""
        ...

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        """Prolong the lease; False when it was lost (a lease that ran out is lost once somebody took it over)."""
        ...

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        """Replace the claim by its record; False when the claim was lost, and then nothing is written."""
        ...

    async def release(self, key: str, fence: int) -> bool:
        """Give the claim up so that the next caller may run; False when it was lost."""
        ...

    def snapshot(self) -> StoreSnapshot:
        """Return numbers for health, metrics and tests; no I/O."""
        ...
