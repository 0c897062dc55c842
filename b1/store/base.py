"""The store's verbs: a few atomic operations that memory and Redis both offer, each one round trip.

A verb either happens completely or not at all. Time comes from the store (the server's clock for Redis), so that two
callers never disagree about a window. Keys are complete names without the namespace; a store puts its prefix in front.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

# Counters are 32 bits wide in Redis; half of that keeps every sum far from the edge.
MAX_UNITS = 2**31 - 1
# 60 of these make a counter's index; together with milliseconds since 1970 they stay exact in Lua's doubles.
MAX_WINDOW_MS = 2**31 - 1
# How long a claim whose lease ran out stays fenced, so that its owner may still finish if nobody took it over.
GRACE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Charge:
    """One policy applied to one caller: take `cost` units from `quota` per `window_ms`.

    A precise sliding window of 61 counters of ``window_ms / 60`` each, the oldest counted whole: never more than
    `quota` units in any window of that length; capacity comes back at most ``window_ms / 60`` late.

    Keys within one `Store.spend` must differ. A key whose `window_ms` changes starts an empty window.

    Attributes:
        cost: 0 only looks.
        shadow: counted and reported, but it refuses nobody.

    Raises:
        ValueError: a number is out of range.
    """

    key: str
    quota: int
    window_ms: int
    cost: int = 1
    shadow: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.quota <= MAX_UNITS:
            raise ValueError(f"quota is {self.quota}, expected 0 to {MAX_UNITS}")
        if not 1 <= self.window_ms <= MAX_WINDOW_MS:
            raise ValueError(f"window_ms is {self.window_ms}, expected 1 to {MAX_WINDOW_MS}")
        if not 0 <= self.cost <= MAX_UNITS:
            raise ValueError(f"cost is {self.cost}, expected 0 to {MAX_UNITS}")


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

    `now_ms` is the store's wall clock, in milliseconds since 1970.
    """

    allowed: bool
    now_ms: int
    balances: tuple[Balance, ...]


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
            Only with CLAIMED.
        retry_after_ms: how long the present owner's lease still runs, only with IN_FLIGHT.
    """

    state: ClaimState
    record: bytes | None = None
    fence: int = 0
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """What a store says about itself.

    `mode`: ``memory`` (no Redis configured), ``redis``, or ``local`` (Redis is configured and away).
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

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True) -> Spent:
        """Take from all charges or from none; with ``commit=False`` only look."""
        ...

    async def refund(self, charges: Sequence[Charge]) -> None:
        """Give each charge's cost back, newest units first, never below an empty window."""
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
