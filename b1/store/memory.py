"""The store in this process's own memory: exact on one worker, byte-bounded, and it answers without an await.

It counts windows and leases on the monotonic clock, so a wall clock that is set changes nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

from b1.clock import Clock
from b1.store.base import CacheRead, Charge, Claim, Entered, Penalty, PenaltyRule, Replay, Spent, StoreSnapshot
from b1.store.claims import Claims
from b1.store.entries import Entries
from b1.store.offences import Offences
from b1.store.streams import Streams
from b1.store.windows import Windows


class MemoryStore:
    """Half of `limit_bytes` for windows, a quarter for claims, an eighth for cached values, a sixteenth each for
    offences and replay rings.

    Args:
        limit_bytes: accounted bytes. Too small a value makes callers share overflow windows (see `Windows`) and
            makes `claim` and `finish` raise `StoreUnavailable`; a sprayed address costs about 400 bytes for a window.
        clock: where time comes from.
    """

    mode = "memory"

    def __init__(self, limit_bytes: int, clock: Clock) -> None:
        self._clock = clock
        sixteenth = limit_bytes // 16
        self.windows = Windows(limit_bytes // 2)
        self.claims = Claims(sixteenth * 4)
        self.entries = Entries(sixteenth * 2)
        self.offences = Offences(sixteenth)
        self.streams = Streams(sixteenth)
        self._calls = 0

    def __repr__(self) -> str:
        return f"MemoryStore({self.windows!r}, {self.claims!r}, {self.entries!r}, {self.offences!r}, {self.streams!r})"

    @property
    def overflowed(self) -> int:
        """How many spends had to share an overflow window since the start."""
        return self.windows.overflowed

    def spend_now(self, charges: Sequence[Charge], *, commit: bool = True, is_stand_in: bool = False) -> Spent:
        """Do what `spend` does, without an await."""
        self._calls += 1
        allowed, balances = self.windows.spend(charges, self.now_ms(), commit=commit, is_stand_in=is_stand_in)
        return Spent(allowed, int(self._clock.wall() * 1000), balances)

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True) -> Spent:
        return self.spend_now(charges, commit=commit)

    def enter_now(
        self, charges: Sequence[Charge], read: CacheRead | None = None, *, is_stand_in: bool = False
    ) -> Entered:
        """Do what `enter` does, without an await."""
        spent = self.spend_now(charges, is_stand_in=is_stand_in)
        if read is None or not spent.allowed:
            return Entered(spent, None)
        return Entered(spent, self.entries.read(read, self.now_ms()))

    async def enter(self, charges: Sequence[Charge], *, read: CacheRead | None = None) -> Entered:
        return self.enter_now(charges, read)

    def refund_now(self, charges: Sequence[Charge]) -> None:
        """Do what `refund` does, without an await."""
        self.windows.refund(charges, self.now_ms())

    async def refund(self, charges: Sequence[Charge]) -> None:
        self.refund_now(charges)

    async def store_if_unchanged(
        self, key: str, value: bytes | None, *, tags: tuple[str, ...], vector: bytes, ttl_ms: int
    ) -> bool:
        return self.entries.store(key, value, tags, vector, ttl_ms=ttl_ms, now_ms=self.now_ms())

    async def invalidate(self, tags: Sequence[str] | None) -> None:
        self.entries.invalidate(tags)

    def penalise_now(self, key: str, rule: PenaltyRule, *, strikes: int = 1, pardon: bool = False) -> Penalty:
        """Do what `penalise` does, without an await."""
        return self.offences.penalise(key, rule, strikes, pardon=pardon, now_ms=self.now_ms())

    async def penalise(self, key: str, rule: PenaltyRule, *, strikes: int = 1, pardon: bool = False) -> Penalty:
        return self.penalise_now(key, rule, strikes=strikes, pardon=pardon)

    async def append(self, stream: str, data: bytes, *, keep: int, keep_bytes: int, ttl_ms: int) -> int:
        return self.streams.append(
            stream,
            data,
            keep=keep,
            keep_bytes=keep_bytes,
            ttl_ms=ttl_ms,
            now_ms=self.now_ms(),
            wall_us=self._wall_us(),
        )

    async def read_since(self, stream: str, after: int, *, limit: int) -> Replay:
        return self.streams.read_since(stream, after, limit=limit, now_ms=self.now_ms())

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        return self.claims.claim(key, fingerprint, lease_ms=lease_ms, now_ms=self.now_ms(), wall_us=self._wall_us())

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        return self.claims.renew(key, fence, lease_ms=lease_ms, now_ms=self.now_ms())

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        return self.claims.finish(key, fence, record, ttl_ms=ttl_ms, now_ms=self.now_ms())

    async def release(self, key: str, fence: int) -> bool:
        return self.claims.release(key, fence, now_ms=self.now_ms())

    def snapshot(self) -> StoreSnapshot:
        parts = (self.windows, self.claims, self.entries, self.offences, self.streams)
        return StoreSnapshot(
            mode="memory",
            connected=True,
            keys=sum(len(part) for part in parts),
            held_bytes=sum(part.held_bytes for part in parts),
            limit_bytes=sum(part.limit_bytes for part in parts),
            round_trips=self._calls,
            errors=0,
            latency_ms=None,
        )

    def now_ms(self) -> int:
        """Return the monotonic milliseconds on which everything here counts."""
        return int(self._clock.monotonic() * 1000)

    def _wall_us(self) -> int:
        return int(self._clock.wall() * 1_000_000)
