"""Redis when it answers, this process's memory when it does not: the same verbs, the same limits.

While Redis answers, memory follows what it says about this process's callers. When it goes, memory goes on from there, and
when it comes back it is told what happened (`Reconciler`). So one process lets no more than N pass in a window across any
number of switches; docs/reference/store.md has the bound for several processes and for lost data.
A claim is finished where it was made; the side is the lowest bit of the fence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.store.base import CacheRead, Charge, Claim, ClaimState, Entered, Penalty, PenaltyRule, Replay, Spent
from b1.store.cached import CacheVerbs
from b1.store.instances import Instances
from b1.store.memory import MemoryStore
from b1.store.operating import StoreUsage, Swept
from b1.store.passing.report import Absorbed, Exported
from b1.store.presence import FallbackSnapshot, Presence
from b1.store.reconcile import Reconciler, Remote
from b1.store.tally import OwedEntry
from b1.store.terms import PLAIN, Terms

_log = logging.getLogger("b1.store")
_LOOK_EVERY_S = 0.2
# Nobody is accepted while a worker leaves its state; what is not paid by then passes to the successor.
_PAY_S = 0.25
_PROBE = Charge("store:probe", 1_000_000, 1000)


class FallbackStore(CacheVerbs):
    """A Redis store with a memory store behind it.

    A task looks for Redis while it is away, and ends when nothing is owed; close the store before its link.

    Args:
        redis: the store to prefer.
        memory: the store that is always there; nobody else may use it.
        clock: for the snapshot.
        instances: how many processes share the Redis, as long as it has not said so itself; while it is away each
            takes its part of the quotas.
    """

    def __init__(self, redis: Remote, memory: MemoryStore, clock: Clock, *, instances: int = 1) -> None:
        self._redis = redis
        self._memory = memory
        self._debts = Reconciler(redis, memory)
        self._presence = Presence(clock)
        self._instances = Instances(redis, clock, configured=instances)
        self._adopted = 0
        self._has_left = False  # what is owed is a successor's now, and nobody pays it here
        self._connects = -1  # the connection that memory follows; -1: none yet
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"FallbackStore(mode={self.mode!r}, switches={self._presence.switches}, redis={self._redis!r})"

    @property
    def mode(self) -> str:
        return self._presence.mode

    async def aclose(self) -> None:
        """End the task that looks for Redis; what is still owed is paid if Redis is there."""
        await self._stop_looking()
        await self._instances.aclose()
        if not self._has_left and not await self.pay(1.0):
            _log.warning("state was not handed over", extra={"owed": repr(self._debts)})

    async def export(
        self, limit_bytes: int, *, last: bool, drain_ms: int = 0, extras: Mapping[str, bytes] | None = None
    ) -> Exported:
        is_here = self._redis.is_up and not (self._has_left or self._presence.is_local)
        is_away = not (is_here and await self.pay(_PAY_S))
        self._has_left = is_away or last
        if self._has_left:
            await self._stop_looking()
        return await self._memory.passing.export(
            limit_bytes, last=last, drain_ms=drain_ms, extras=extras, debts=self._debts, is_away=is_away
        )

    async def absorb(self, data: bytes) -> Absorbed:
        absorbed = await self._memory.passing.absorb(data, debts=self._debts)
        if self._debts.owes:
            self._look_for_return()
        return absorbed

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        terms = terms or PLAIN
        if self._is_shut_out_here(terms):
            return self._memory.spend_now(charges, commit=False, terms=terms)
        try:
            await self._reach(charges)
            spent = await self._redis.spend(charges, commit=commit, terms=terms)
        except StoreUnavailable as reason:
            self._failed(reason)
            return self._stand_in(charges, None, terms, commit=commit).spent
        self._follow(charges, spent, terms, commit=commit)
        return spent

    def spend_soon(self, charges: Sequence[Charge], terms: Terms, tell: Callable[[Spent | None], None]) -> bool:
        """Do what `spend` does without a task, while Redis is there and owed nothing; see `RedisStore.spend_soon`.

        When `tell` hears None, `spend` decides: at worst one unit too much is counted.
        """
        if self._has_left or self._presence.is_local or self._debts.owes or self._is_shut_out_here(terms):
            return False

        def followed(spent: Spent | None) -> None:
            if spent is not None:
                self._follow(charges, spent, terms, commit=True)
            tell(spent)

        return self._redis.spend_soon(charges, terms, followed)

    async def enter(
        self, charges: Sequence[Charge], *, read: CacheRead | None = None, terms: Terms | None = None
    ) -> Entered:
        terms = terms or PLAIN
        if self._is_shut_out_here(terms):
            return Entered(self._memory.spend_now(charges, commit=False, terms=terms), None)
        try:
            await self._reach(charges)
            if read is not None:
                await self._debts.pay_cache()
            entered = await self._redis.enter(charges, read=read, terms=terms)
        except StoreUnavailable as reason:
            self._failed(reason)
            return self._stand_in(charges, read, terms, commit=True)
        self._follow(charges, entered.spent, terms, commit=True)
        return entered

    async def refund(self, charges: Sequence[Charge], *, holder: str = "") -> None:
        try:
            await self._reach(charges)
            await self._redis.refund(charges, holder=holder)
        except StoreUnavailable as reason:
            self._failed(reason)
            self._memory.refund_now(charges, holder=holder)
            return
        self._answered()
        self._memory.refund_now(charges, holder=holder)

    async def penalise(self, key: str, rule: PenaltyRule, *, strikes: int = 1, pardon: bool = False) -> Penalty:
        local = self._memory.penalise_now(key, rule, strikes=0, pardon=pardon)
        if local.blocked_ms and self._presence.is_local:
            return local
        try:
            await self._reach()
            penalty = await self._redis.penalise(key, rule, strikes=strikes, pardon=pardon)
        except StoreUnavailable as reason:
            self._failed(reason)
            return self._memory.penalise_now(key, rule, strikes=strikes)
        self._answered()
        # A block that was imposed here while Redis was away is served to its end.
        if penalty.blocked_ms < local.blocked_ms:
            return local
        self._memory.offences.follow(key, penalty, rule, now_ms=self._memory.now_ms())
        return penalty

    async def append(self, stream: str, data: bytes, *, keep: int, keep_bytes: int, ttl_ms: int) -> int:
        try:
            await self._reach()
            await self._debts.pay_entries()
            entry_id = await self._redis.append(stream, data, keep=keep, keep_bytes=keep_bytes, ttl_ms=ttl_ms)
        except StoreUnavailable as reason:
            self._failed(reason)
            entry_id = await self._memory.append(stream, data, keep=keep, keep_bytes=keep_bytes, ttl_ms=ttl_ms)
            self._debts.owe_entry(OwedEntry(stream, entry_id, data, keep, keep_bytes, ttl_ms))
            self._look_for_return()
            return entry_id
        self._answered()
        self._memory.streams.follow(stream, entry_id, ttl_ms=ttl_ms, now_ms=self._memory.now_ms())
        return entry_id

    async def read_since(self, stream: str, after: int, *, limit: int) -> Replay:
        try:
            await self._reach()
            await self._debts.pay_entries()
            replay = await self._redis.read_since(stream, after, limit=limit)
        except StoreUnavailable as reason:
            self._failed(reason)
            return await self._memory.read_since(stream, after, limit=limit)
        self._answered()
        return replay

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        # What memory decided was claimed or finished while Redis was away; Redis may know nothing of it.
        if self._memory.claims.is_live(key, self._memory.now_ms()):
            return _local(await self._memory.claim(key, fingerprint, lease_ms=lease_ms))
        try:
            await self._reach()
            claim = await self._redis.claim(key, fingerprint, lease_ms=lease_ms)
        except StoreUnavailable as reason:
            self._failed(reason)
            return _local(await self._memory.claim(key, fingerprint, lease_ms=lease_ms))
        self._answered()
        if claim.state is not ClaimState.CLAIMED:
            return replace(claim, fence=claim.fence * 2) if claim.is_owner_gone else claim
        now_ms = self._memory.now_ms()
        self._memory.claims.mirror(key, fingerprint, claim.fence, lease_ms=lease_ms, now_ms=now_ms)
        return Claim(ClaimState.CLAIMED, fence=claim.fence * 2)

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        if fence % 2:
            return await self._memory.renew(key, fence // 2, lease_ms=lease_ms)
        # Its mirror too: when Redis has gone, that is what a duplicate meets. Another process sees the lease in Redis
        # or nothing at all.
        is_held_here = await self._memory.renew(key, fence // 2, lease_ms=lease_ms)
        try:
            await self._reach()
            renewed = await self._redis.renew(key, fence // 2, lease_ms=lease_ms)
        except StoreUnavailable as reason:
            self._failed(reason)
            return is_held_here
        self._answered()
        return renewed

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        claims, own_fence, now_ms = self._memory.claims, fence // 2, self._memory.now_ms()
        if fence % 2:
            finished = claims.finish(key, own_fence, record, ttl_ms=ttl_ms, now_ms=now_ms)
            if finished:
                claims.owed[key] = 0
                self._look_for_return()
            return finished
        try:
            await self._reach()
            finished = await self._redis.finish(key, own_fence, record, ttl_ms=ttl_ms)
        except StoreUnavailable as reason:
            self._failed(reason)
            kept = claims.finish_mirror(key, own_fence, record, ttl_ms=ttl_ms, now_ms=self._memory.now_ms())
            self._adopted += kept
            self._look_for_return()
            return kept
        self._answered()
        if finished:
            claims.mirror_finish(key, own_fence, record, ttl_ms=ttl_ms, now_ms=self._memory.now_ms())
        return finished

    async def release(self, key: str, fence: int) -> bool:
        released_here = await self._memory.release(key, fence // 2)
        if fence % 2:
            return released_here
        try:
            await self._reach()
            released = await self._redis.release(key, fence // 2)
        except StoreUnavailable as reason:
            self._failed(reason)
            return True  # its lease in Redis runs out by itself
        self._answered()
        return released

    async def usage(self) -> StoreUsage:
        """Ask Redis how full it is.

        Raises:
            StoreUnavailable: it is away.
        """
        return await self._redis.usage()

    async def sweep(self, prefix: str, cursor: int, *, limit: int) -> Swept:
        """Remove finished claims whose keys begin with `prefix`, here and from the next slice of Redis.

        Raises:
            StoreUnavailable: Redis is away.
        """
        if cursor == 0:
            for key in self._memory.claims.keys():  # noqa: SIM118 - a copy of the keys of a table, which is no mapping
                if key.startswith(prefix):
                    self._memory.claims.drop_finished(key)
        return await self._redis.sweep(prefix, cursor, limit=limit)

    def snapshot(self) -> FallbackSnapshot:
        redis, memory = self._redis.snapshot(), self._memory.snapshot()
        return FallbackSnapshot(
            mode=self.mode,
            connected=redis.connected,
            keys=memory.keys,
            held_bytes=memory.held_bytes,
            limit_bytes=memory.limit_bytes,
            round_trips=redis.round_trips,
            errors=redis.errors,
            latency_ms=redis.latency_ms,
            switches=self._presence.switches,
            local_calls=self._presence.local_calls,
            adopted=self._adopted,
            mode_since_s=self._presence.since_s,
            reconcile=self._debts.snapshot(),
            instances=self._instances.count,
        )

    async def _reach(self, charges: Sequence[Charge] = ()) -> None:
        """Make sure that Redis may be asked about `charges`: it is there, and knows what was counted here.

        Raises:
            StoreUnavailable: it may not.
        """
        if self._has_left:
            raise StoreUnavailable("what is owed to Redis was left to a successor")
        if not (self._presence.is_local or self._debts.owes):
            return
        if not self._redis.is_up:
            raise StoreUnavailable("Redis is away")
        self._note_connection()
        if charges:
            await self._debts.pay_windows([charge.key for charge in charges])

    def _note_connection(self) -> None:
        connects = self._redis.connects
        if self._connects not in (-1, connects):
            self._memory.windows.owe_all()
        self._connects = connects

    def _follow(self, charges: Sequence[Charge], spent: Spent, terms: Terms, *, commit: bool) -> None:
        self._answered()
        self._memory.follow(charges, spent, terms, commit=commit)
        if self._memory.windows.owed:
            self._look_for_return()

    def _stand_in(self, charges: Sequence[Charge], read: CacheRead | None, terms: Terms, *, commit: bool) -> Entered:
        """Decide here, with this process's part of what was left."""
        share = self._instances.count
        if read is not None and not self._presence.is_local:
            # One call failed, and Redis goes on: what memory kept from an absence has not heard of anything since.
            read = CacheRead(None, read.tags)
        entered = self._memory.enter_now(charges, read, commit=commit, terms=terms, is_stand_in=True, share=share)
        penalty = entered.spent.penalty
        if terms.offender is not None and penalty is not None and penalty.blocked_ms and self._presence.is_local:
            self._memory.offences.decided_here(terms.offender.key)
        return entered

    def _is_shut_out_here(self, terms: Terms) -> bool:
        """Say whether this process imposed a block while Redis was away: it is served to its end."""
        offender, offences = terms.offender, self._memory.offences
        if offender is None or terms.is_forced:
            return False
        return offences.has_decided_here(offender.key, self._memory.now_ms())

    def _failed(self, reason: StoreUnavailable) -> None:
        """Memory answers this call."""
        if self._presence.failed(reason, is_up=self._redis.is_up):
            # Nobody hears of other processes' invalidations from now on, nor did memory of those before.
            self._memory.entries.invalidate(None)
            self._redis.versions.is_away = True
        self._look_for_return()

    def _answered(self) -> None:
        if self._presence.is_local:
            self._redis.versions.note_return()
        self._presence.answered()
        self._instances.announce()
        if self._connects == -1:
            self._connects = self._redis.connects

    def _look_for_return(self) -> None:
        if not self._has_left and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._come_back(), name="b1-store-return")

    async def _stop_looking(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def pay(self, limit_s: float) -> bool:
        """Pay all that is owed if Redis is there; say whether nothing is left."""
        if self._debts.owes and self._redis.is_up:
            try:
                async with asyncio.timeout(limit_s):
                    await self._debts.pay_all()
            except (StoreUnavailable, TimeoutError):
                return False
        return not self._debts.owes

    async def _come_back(self) -> None:
        """Wait for Redis, tell it what it is owed, and end when nothing is left to do."""
        while self._presence.is_local or self._debts.owes:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._redis.versions.pass_time()
            if not self._redis.is_up:
                continue
            try:
                self._note_connection()
                # A script that writes: a server that only reads, or has no memory, is not back.
                await self._redis.spend([_PROBE])
                self._answered()
                await self._debts.pay_all()
            except StoreUnavailable:
                continue


def _local(claim: Claim) -> Claim:
    return claim if claim.state is not ClaimState.CLAIMED else Claim(ClaimState.CLAIMED, fence=claim.fence * 2 + 1)
