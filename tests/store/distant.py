"""A memory store that can be out of reach: it stands for Redis where a test wants a clock and no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from b1.clock import Clock
from b1.errors import StoreUnavailable
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
from b1.store.claims import Kept
from b1.store.memory import MemoryStore
from b1.store.mirror import Mirror
from b1.store.operating import StoreUsage, Swept
from b1.store.tally import Batch, Drained, Tally
from b1.store.terms import PLAIN, Terms
from tests.store.table import Table


class Distant:
    """Everything that `FallbackStore` wants of Redis.

    Attributes:
        is_away: nothing answers, and it shows.
        loses_replies: calls are carried out and their answers do not arrive.
        error: raised by every call, while the link is up.
    """

    mode = "redis"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.inner = MemoryStore(2**20, clock)
        self.is_away = False
        self.loses_replies = False
        self.error: StoreUnavailable | None = None
        self.connects = 1
        self.calls: list[str] = []
        self.batches: set[str] = set()
        self.processes: set[str] = set()
        self.table = Table()
        self.versions = Mirror(clock, lambda: self.is_up)
        self._connect()

    @property
    def is_up(self) -> bool:
        return not self.is_away

    def restart_empty(self) -> None:
        """Come back without data."""
        self.inner = MemoryStore(2**20, self._clock)
        self.table = Table()
        self.batches.clear()
        self._connect()
        self.connects += 1
        self.is_away = False

    def _connect(self) -> None:
        self.versions.connected(None, has_pushes=True)
        self.versions.load(self.table.dump())

    def _reach(self, verb: str) -> MemoryStore:
        if self.is_away:
            raise StoreUnavailable("away")
        if self.error is not None:
            raise self.error
        self.calls.append(verb)
        return self.inner

    def _answer(self) -> None:
        if self.loses_replies:
            raise StoreUnavailable("the answer did not come")

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        spent = self._reach("spend").spend_now(charges, commit=commit, terms=terms or PLAIN)
        self._answer()
        return spent

    async def enter(
        self, charges: Sequence[Charge], *, read: CacheRead | None = None, terms: Terms | None = None
    ) -> Entered:
        entered = self._reach("enter").enter_now(charges, read, terms=terms or PLAIN)
        self._answer()
        return entered

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        answers = self._reach("read_many").read_many_now(reads)
        self._answer()
        return answers

    async def refund(self, charges: Sequence[Charge], *, holder: str = "") -> None:
        self._reach("refund").refund_now(charges, holder=holder)
        self._answer()

    async def drain(self, drained: Sequence[Drained]) -> None:
        buckets, now_us = self._reach("drain").buckets, self.inner.now_ms() * 1000
        for one in drained:
            full_us = max(now_us, buckets._full_at.get(one.key, 0)) + one.owed_us
            buckets._set(one.key, min(max(full_us, now_us + one.left_us), now_us + one.most_us), now_us)
        self._answer()

    async def be_present(self, process: str, *, for_ms: int) -> int:
        if self.is_away:
            raise StoreUnavailable("away")
        if for_ms:
            self.processes.add(process)
        else:
            self.processes.discard(process)
        return len(self.processes)

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
        store = self._reach("store_if_unchanged").store_if_unchanged
        stored = await store(key, value, tags=tags, vector=vector, ttl_ms=ttl_ms, fresh_ms=fresh_ms)
        self._answer()
        return stored

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]:
        stored = await self._reach("store_many").store_many(writes)
        self._answer()
        return stored

    @property
    def owes_invalidations(self) -> bool:
        return self.versions.has_marks

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self.versions.mark(tags, soft)

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        mark = self.versions.mark(tags, soft)
        await self._reach("invalidate").invalidate(tags, soft=soft)
        change = self.table.invalidate(tags, soft)
        self._answer()
        self.versions.hear_own(change)
        self.versions.settle(mark)

    async def barrier(self) -> bool:
        self._reach("barrier")
        return self.versions.is_exact

    async def penalise(self, key: str, rule: PenaltyRule, *, strikes: int = 1, pardon: bool = False) -> Penalty:
        penalty = self._reach("penalise").penalise_now(key, rule, strikes=strikes, pardon=pardon)
        self._answer()
        return penalty

    async def append(
        self, stream: str, data: bytes, *, keep: int, keep_bytes: int, ttl_ms: int, given_id: int = 0
    ) -> int:
        self._reach("append")
        found = (await self.inner.read_since(stream, given_id - 1, limit=1)).entries
        if given_id and found and found[0].id == given_id:
            return given_id
        ring = self.inner.streams._rings.get(stream)
        if given_id and ring is not None:
            ring.last = max(ring.last, given_id - 1)
        added = await self.inner.append(stream, data, keep=keep, keep_bytes=keep_bytes, ttl_ms=ttl_ms)
        self._answer()
        return added

    async def read_since(self, stream: str, after: int, *, limit: int) -> Replay:
        return await self._reach("read_since").read_since(stream, after, limit=limit)

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        claim = await self._reach("claim").claim(key, fingerprint, lease_ms=lease_ms)
        self._answer()
        return claim

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        return await self._reach("renew").renew(key, fence, lease_ms=lease_ms)

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        finished = await self._reach("finish").finish(key, fence, record, ttl_ms=ttl_ms)
        self._answer()
        return finished

    async def release(self, key: str, fence: int) -> bool:
        return await self._reach("release").release(key, fence)

    async def merge(self, batch: Batch, *, waited_ms: int) -> int:
        self._reach("merge")
        if batch.name not in self.batches or not batch.is_owed:
            self.batches.add(batch.name)
            for tally in batch.tallies:
                self._merge(tally, waited_ms)
        self._answer()
        return 0

    async def adopt(self, kept: Kept) -> bool:
        claims, now_ms = self._reach("adopt").claims, self.inner.now_ms()
        if claims.is_live(kept.key, now_ms) and not kept.fence:
            return False
        fence = kept.fence
        if not claims.is_live(kept.key, now_ms):
            fence = claims.claim(kept.key, kept.fingerprint, lease_ms=1000, now_ms=now_ms, wall_us=0).fence
        adopted = claims.finish(kept.key, fence, kept.record, ttl_ms=kept.ttl_ms, now_ms=now_ms)
        self._answer()
        return adopted

    async def usage(self) -> StoreUsage:
        raise StoreUnavailable("nobody asks this of a stand-in")

    async def sweep(self, prefix: str, cursor: int, *, limit: int) -> Swept:
        return await self._reach("sweep").sweep(prefix, cursor, limit=limit)

    def snapshot(self) -> StoreSnapshot:
        return replace(self.inner.snapshot(), mode="redis", connected=self.is_up)

    def _merge(self, tally: Tally, waited_ms: int) -> None:
        """Slow and obvious: what the script does, with a dictionary of counters."""
        now_ms = self.inner.now_ms()
        charge = Charge(tally.key, 2**31 - 1, tally.window_ms)
        used = self.inner.spend_now([charge], commit=False).balances[0].used
        missing = sum(part.known for part in tally.parts) - used
        if not used:
            self.inner.spend_now([charge])
        window = self.inner.windows.shelf.windows[tally.key]
        counters = dict(zip(window.counters[::2], window.counters[1::2], strict=True)) if used else {}
        for part in reversed(tally.parts):
            counter = (now_ms - part.age_ms - waited_ms) * 60 // tally.window_ms
            units = part.owed + max(0, min(part.known, missing))
            missing -= part.known
            if units:
                counters[counter] = counters.get(counter, 0) + units
        window.replace(counters)
