"""The store in this process's own memory: exact on one worker, byte-bounded, and it answers without an await.

It counts windows and leases on the monotonic clock, so a wall clock that is set changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from b1.clock import Clock
from b1.store.base import (
    CacheAnswer,
    CacheRead,
    CacheWrite,
    Charge,
    Claim,
    Entered,
    Penalty,
    PenaltyRule,
    Replay,
    Spent,
    StoreSnapshot,
)
from b1.store.buckets import Buckets
from b1.store.claims import Claims
from b1.store.deciding import Tables, decide, follow, refund
from b1.store.entries import Entries
from b1.store.leases import Leases
from b1.store.offences import NO_PENALTY, Offences
from b1.store.operating import Swept
from b1.store.passing.report import Absorbed, Exported
from b1.store.passing.service import Passing
from b1.store.streams import Streams
from b1.store.terms import PLAIN, Terms
from b1.store.versions import Versions
from b1.store.windows import Windows


class MemoryStore:
    """Half of `limit_bytes` for windows, a quarter for claims, a sixteenth each for cached values, offences and replay
    rings, a thirty-second each for buckets and leases.

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
        self.entries = Entries(sixteenth)
        self.offences = Offences(sixteenth)
        self.streams = Streams(sixteenth)
        self.buckets = Buckets(sixteenth // 2)
        self.leases = Leases(sixteenth // 2)
        self._tables = Tables(self.windows, self.buckets, self.leases, self.offences)
        self.passing = Passing(self)
        self._calls = 0

    def __repr__(self) -> str:
        return f"MemoryStore({self.windows!r}, {self.claims!r}, {self.entries!r}, {self.offences!r}, {self.streams!r})"

    @property
    def overflowed(self) -> int:
        """How many spends had to share an overflow window since the start."""
        return self.windows.overflowed

    def spend_now(
        self,
        charges: Sequence[Charge],
        *,
        commit: bool = True,
        terms: Terms = PLAIN,
        is_stand_in: bool = False,
        share: int = 1,
    ) -> Spent:
        """Do what `spend` does, without an await.

        Args:
            is_stand_in: for Redis, which has to be told.
            share: how many processes stand in; this one has its part of the quotas.
        """
        self._calls += 1
        now_ms, wall_ms = int(self._clock.monotonic() * 1000), int(self._clock.wall() * 1000)
        case = terms.offender
        if commit and not is_stand_in and not terms.is_forced and (case is None or self.offences.is_clean(case)):
            simple = self.windows.spend_at_once(charges, now_ms)
            if simple is not None:
                return Spent(True, wall_ms, simple, None if case is None else NO_PENALTY)
        allowed, balances, penalty = decide(
            self._tables, charges, terms, now_ms, commit=commit, is_stand_in=is_stand_in, share=share
        )
        return Spent(allowed, wall_ms, balances, penalty)

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        return self.spend_now(charges, commit=commit, terms=terms or PLAIN)

    def enter_now(
        self,
        charges: Sequence[Charge],
        read: CacheRead | None = None,
        *,
        commit: bool = True,
        terms: Terms = PLAIN,
        is_stand_in: bool = False,
        share: int = 1,
    ) -> Entered:
        """Do what `enter` does, without an await; see `spend_now`."""
        spent = self.spend_now(charges, commit=commit, terms=terms, is_stand_in=is_stand_in, share=share)
        if read is None or not spent.allowed:
            return Entered(spent, None)
        return Entered(spent, self.entries.read(read, self.now_ms()))

    async def enter(
        self, charges: Sequence[Charge], *, read: CacheRead | None = None, terms: Terms | None = None
    ) -> Entered:
        return self.enter_now(charges, read, terms=terms or PLAIN)

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        return self.read_many_now(reads)

    def read_many_now(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        """Do what `read_many` does, without an await."""
        now_ms = self.now_ms()
        return [self.entries.read(read, now_ms) for read in reads]

    def follow(self, charges: Sequence[Charge], spent: Spent, terms: Terms, *, commit: bool) -> None:
        """Know what Redis decided, for the time when it is away."""
        takes = commit and spent.allowed
        follow(self._tables, charges, spent.balances, terms, self.now_ms(), takes=takes)
        if terms.offender is not None and spent.penalty is not None:
            self.offences.follow(terms.offender.key, spent.penalty, terms.offender.rule, now_ms=self.now_ms())

    def refund_now(self, charges: Sequence[Charge], *, holder: str = "") -> None:
        """Do what `refund` does, without an await."""
        refund(self._tables, charges, self.now_ms(), holder=holder)

    async def refund(self, charges: Sequence[Charge], *, holder: str = "") -> None:
        self.refund_now(charges, holder=holder)

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
        now_ms = self.now_ms()
        return self.entries.store(key, value, tags, vector, ttl_ms=ttl_ms, now_ms=now_ms, fresh_ms=fresh_ms)

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]:
        return [
            await self.store_if_unchanged(
                one.key, one.value, tags=one.tags, vector=one.vector, ttl_ms=one.ttl_ms, fresh_ms=one.fresh_ms
            )
            for one in writes
        ]

    @property
    def versions(self) -> Versions:
        return self.entries.versions

    @property
    def owes_invalidations(self) -> bool:
        return False

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self.entries.invalidate(tags, soft)
        # A successor invalidates hard what was invalidated softly here: too much, never too little.
        self.passing.note_tags(None if tags is None else [*tags, *soft])

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self.invalidate_here(tags, soft=soft)

    async def barrier(self) -> bool:
        return True

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
            wall_us=self.wall_us(),
        )

    async def read_since(self, stream: str, after: int, *, limit: int) -> Replay:
        return self.streams.read_since(stream, after, limit=limit, now_ms=self.now_ms())

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        return self.claims.claim(key, fingerprint, lease_ms=lease_ms, now_ms=self.now_ms(), wall_us=self.wall_us())

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        return self.claims.renew(key, fence, lease_ms=lease_ms, now_ms=self.now_ms())

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        return self.claims.finish(key, fence, record, ttl_ms=ttl_ms, now_ms=self.now_ms())

    async def release(self, key: str, fence: int) -> bool:
        return self.claims.release(key, fence, now_ms=self.now_ms())

    async def export(
        self, limit_bytes: int, *, last: bool, drain_ms: int = 0, extras: Mapping[str, bytes] | None = None
    ) -> Exported:
        return await self.passing.export(limit_bytes, last=last, drain_ms=drain_ms, extras=extras)

    async def absorb(self, data: bytes) -> Absorbed:
        return await self.passing.absorb(data)

    def tell_through(self, has_heir: Callable[[], bool], tell: Callable[[bytes], bool]) -> None:
        self.passing.tell_through(has_heir, tell)

    def hear(self, data: bytes) -> None:
        self.passing.hear(data)

    async def sweep(self, prefix: str, cursor: int, *, limit: int) -> Swept:
        """Remove finished claims whose keys begin with `prefix`, from the next `limit` keys."""
        keys = self.claims.keys()[cursor : cursor + limit]
        removed = sum(self.claims.drop_finished(key) for key in keys if key.startswith(prefix))
        end = cursor + limit - removed
        return Swept(end if end < len(self.claims) else None, removed)

    def snapshot(self) -> StoreSnapshot:
        parts = (
            self.windows, self.claims, self.entries, self.offences, self.streams, self.buckets, self.leases,
        )  # fmt: skip
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

    def wall_us(self) -> int:
        """Return the wall clock's microseconds since 1970, from which fences and ids begin."""
        return int(self._clock.wall() * 1_000_000)
