"""Redis when it answers, this process's memory when it does not: the same verbs, the same limits.

While Redis answers, memory follows what it says about this process's callers. When it goes, memory goes on from there, and
when it comes back it is told what happened (`Reconciler`). So one process lets no more than N pass in a window across any
number of switches; docs/reference/store.md has the bound for several processes and for lost data.
What that means for claims and for cached values is in files of its own, and so is the way from one to the other and back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.store.ahead import Ahead
from b1.store.base import CacheAnswer, CacheRead, Charge, Claim, Entered, Penalty, PenaltyRule, Replay, Spent
from b1.store.cached import CacheVerbs
from b1.store.claiming import ClaimVerbs
from b1.store.instances import Instances
from b1.store.memory import MemoryStore
from b1.store.mirror import Mirror
from b1.store.operating import StoreUsage, Swept
from b1.store.passing.report import Absorbed, Exported
from b1.store.presence import FallbackSnapshot, Presence
from b1.store.reads import CacheWrite
from b1.store.reconcile import Reconciler, Remote
from b1.store.switching import Switching
from b1.store.tally import OwedEntry
from b1.store.terms import PLAIN, Terms

_log = logging.getLogger("b1.store")
# Nobody is accepted while a worker leaves its state; what is not paid by then passes to the successor.
_PAY_S = 0.25


class FallbackStore:
    """A Redis store with a memory store behind it.

    A task looks for Redis while it is away, and ends when nothing is owed; close the store before its link.

    Args:
        redis: the store to prefer.
        memory: the store that is always there; nobody else may use it.
        clock: for the snapshot.
        instances: how many processes share the Redis, as long as it has not said so itself; while it is away each
            takes its part of the quotas.
        ahead: of each quota the part that may be spent before Redis knows; see `b1.store.ahead`. 0: none.
    """

    def __init__(
        self, redis: Remote, memory: MemoryStore, clock: Clock, *, instances: int = 1, ahead: float = 0.0
    ) -> None:
        self._redis = redis
        self._memory = memory
        self._debts = Reconciler(redis, memory)
        self._presence = Presence(clock)
        self._instances = Instances(redis, clock, configured=instances)
        self._switching = Switching(redis, memory, self._debts, self._presence, self._instances.announce)
        self._reach, self._failed = self._switching.reach, self._switching.failed
        self._answered, self._look_for_return = self._switching.answered, self._switching.look_for_return
        self._ahead = Ahead(memory, ahead) if ahead else None
        self._cache = CacheVerbs(redis, memory, self._debts, self._presence, self._switching)
        self._claims = ClaimVerbs(redis, memory, self._switching)

    def __repr__(self) -> str:
        return f"FallbackStore(mode={self.mode!r}, switches={self._presence.switches}, redis={self._redis!r})"

    @property
    def mode(self) -> str:
        return self._presence.mode

    async def aclose(self) -> None:
        """End the task that looks for Redis; what is still owed is paid if Redis is there."""
        await self._switching.stop_looking()
        await self._instances.aclose()
        if not self._has_left and not await self.pay(1.0):
            _log.warning("state was not handed over", extra={"owed": repr(self._debts)})

    async def export(
        self, limit_bytes: int, *, last: bool, drain_ms: int = 0, extras: Mapping[str, bytes] | None = None
    ) -> Exported:
        is_here = self._redis.is_up and not (self._has_left or self._presence.is_local)
        is_away = not (is_here and await self.pay(_PAY_S))
        self._switching.has_left = is_away or last
        if self._has_left:
            await self._switching.stop_looking()
        return await self._memory.passing.export(
            limit_bytes, last=last, drain_ms=drain_ms, extras=extras, debts=self._debts, is_away=is_away
        )

    def tell_through(self, has_heir: Callable[[], bool], tell: Callable[[bytes], bool]) -> None:
        self._memory.tell_through(has_heir, tell)

    def hear(self, data: bytes) -> None:
        for tags in self._memory.passing.hear(data):
            self._cache.hear_of(tags)

    async def absorb(self, data: bytes) -> Absorbed:
        absorbed = await self._memory.passing.absorb(data, debts=self._debts)
        self._cache.hear_of(absorbed.tags)
        if self._debts.owes:
            self._look_for_return()
        return absorbed

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        terms = terms or PLAIN
        if self._is_shut_out_here(terms):
            return self._memory.spend_now(charges, commit=False, terms=terms)
        try:
            await self._reach(charges)
            answer = self._redis.spend(charges, commit=commit, terms=terms)
            spent = await (answer if self._ahead is None else self._ahead.minding(charges, answer))
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
            if self._ahead is not None:
                self._ahead.answered(charges)
            if spent is not None:
                self._follow(charges, spent, terms, commit=True)
            tell(spent)

        is_asked = self._redis.spend_soon(charges, terms, followed)
        if is_asked and self._ahead is not None:
            self._ahead.ask(charges)
        return is_asked

    def spend_ahead(self, charges: Sequence[Charge], terms: Terms) -> Spent | None:
        """Decide without waiting for Redis, which is told afterwards; None, and nothing, where it has to be asked."""
        ahead = self._ahead
        if ahead is None or self._switching.has_left or self._presence.is_local or self._debts.owes:
            return None
        if self._is_shut_out_here(terms):
            return None
        return ahead.spend(charges, terms, self._redis.spend_soon, self._told)

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
            answer = self._redis.enter(charges, read=read, terms=terms)
            entered = await (answer if self._ahead is None else self._ahead.minding(charges, answer))
        except StoreUnavailable as reason:
            self._failed(reason)
            return self._stand_in(charges, read, terms, commit=True)
        self._follow(charges, entered.spent, terms, commit=True)
        return entered

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        return await self._cache.read_many(reads)

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
        return await self._cache.store_if_unchanged(
            key, value, tags=tags, vector=vector, ttl_ms=ttl_ms, fresh_ms=fresh_ms
        )

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]:
        return await self._cache.store_many(writes)

    @property
    def versions(self) -> Mirror:
        return self._cache.versions

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self._cache.invalidate_here(tags, soft=soft)

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        await self._cache.invalidate(tags, soft=soft)

    @property
    def owes_invalidations(self) -> bool:
        return self._cache.owes_invalidations

    async def barrier(self) -> bool:
        return await self._cache.barrier()

    async def pay(self, limit_s: float) -> bool:
        """Pay all that is owed if Redis is there; say whether nothing is left."""
        return await self._switching.pay(limit_s)

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
        return await self._claims.claim(key, fingerprint, lease_ms=lease_ms)

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        return await self._claims.renew(key, fence, lease_ms=lease_ms)

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        return await self._claims.finish(key, fence, record, ttl_ms=ttl_ms)

    async def release(self, key: str, fence: int) -> bool:
        return await self._claims.release(key, fence)

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
            adopted=self._claims.adopted,
            mode_since_s=self._presence.since_s,
            reconcile=self._debts.snapshot(),
            instances=self._instances.count,
            ahead=self._ahead.decided if self._ahead is not None else 0,
            regretted=self._ahead.regretted if self._ahead is not None else 0,
        )

    @property
    def _has_left(self) -> bool:
        return self._switching.has_left

    def _follow(self, charges: Sequence[Charge], spent: Spent, terms: Terms, *, commit: bool) -> None:
        self._answered()
        if self._ahead is not None:
            spent = self._ahead.with_unheard(charges, spent)
        self._memory.follow(charges, spent, terms, commit=commit)
        if self._memory.windows.owed:
            self._look_for_return()

    def _told(self, reply: Spent | None) -> None:
        if reply is not None:
            self._answered()
        if self._memory.windows.owed:
            self._look_for_return()

    def _stand_in(self, charges: Sequence[Charge], read: CacheRead | None, terms: Terms, *, commit: bool) -> Entered:
        """Decide here, with this process's part of what was left."""
        share = self._instances.count
        if read is not None:
            read = self._cache.readable(read)
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
