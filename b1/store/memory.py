"""The store in this process's own memory: exact on one worker, byte-bounded, and it answers without an await.

It counts windows and leases on the monotonic clock, so a wall clock that is set changes nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

from b1.clock import Clock
from b1.store.base import Charge, Claim, Spent, StoreSnapshot
from b1.store.claims import Claims
from b1.store.windows import Windows


class MemoryStore:
    """Windows and claims within `limit_bytes`, half for each.

    Args:
        limit_bytes: accounted bytes. Too small a value makes callers share overflow windows (see `Windows`) and
            makes `claim` and `finish` raise `StoreUnavailable`; a sprayed address costs about 360 bytes for a window.
        clock: where time comes from.
    """

    mode = "memory"

    def __init__(self, limit_bytes: int, clock: Clock) -> None:
        self._clock = clock
        self._windows = Windows(limit_bytes // 2)
        self._claims = Claims(limit_bytes - limit_bytes // 2)
        self._spends = 0

    def __repr__(self) -> str:
        return f"MemoryStore({self._windows!r}, {self._claims!r})"

    @property
    def overflowed(self) -> int:
        """How many spends had to share an overflow window since the start."""
        return self._windows.overflowed

    def spend_now(self, charges: Sequence[Charge], *, commit: bool = True) -> Spent:
        """Do what `spend` does, without an await."""
        self._spends += 1
        allowed, balances = self._windows.spend(charges, self._now_ms(), commit=commit)
        return Spent(allowed, int(self._clock.wall() * 1000), balances)

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True) -> Spent:
        return self.spend_now(charges, commit=commit)

    def refund_now(self, charges: Sequence[Charge]) -> None:
        """Do what `refund` does, without an await."""
        self._windows.refund(charges, self._now_ms())

    async def refund(self, charges: Sequence[Charge]) -> None:
        self.refund_now(charges)

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        wall_us = int(self._clock.wall() * 1_000_000)
        return self._claims.claim(key, fingerprint, lease_ms=lease_ms, now_ms=self._now_ms(), wall_us=wall_us)

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        return self._claims.renew(key, fence, lease_ms=lease_ms, now_ms=self._now_ms())

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        return self._claims.finish(key, fence, record, ttl_ms=ttl_ms, now_ms=self._now_ms())

    async def release(self, key: str, fence: int) -> bool:
        return self._claims.release(key, fence, now_ms=self._now_ms())

    def knows_claim(self, key: str) -> bool:
        """Say whether `key` is in flight or finished here."""
        return self._claims.is_live(key, self._now_ms())

    def adopt(self, key: str, fingerprint: bytes, record: bytes, *, ttl_ms: int) -> None:
        """Keep a record whose claim was made in another store.

        Raises:
            StoreUnavailable: it does not fit.
        """
        self._claims.adopt(key, fingerprint, record, ttl_ms=ttl_ms, now_ms=self._now_ms())

    def snapshot(self) -> StoreSnapshot:
        return StoreSnapshot(
            mode="memory",
            connected=True,
            keys=len(self._windows) + len(self._claims),
            held_bytes=self._windows.held_bytes + self._claims.held_bytes,
            limit_bytes=self._windows.limit_bytes + self._claims.limit_bytes,
            round_trips=self._spends,
            errors=0,
            latency_ms=None,
        )

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)
