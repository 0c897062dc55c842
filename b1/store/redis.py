"""The store in a Redis or Valkey server: one Lua script and one round trip per verb, on the server's clock.

It knows nothing of connections (the link does) and never answers from local state (`FallbackStore` does).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import Any

from b1.errors import StoreUnavailable
from b1.link import Link
from b1.store.base import (
    GRACE_MS,
    Balance,
    CacheAnswer,
    CacheRead,
    CacheState,
    Charge,
    Claim,
    ClaimState,
    Entered,
    Penalty,
    PenaltyRule,
    Replay,
    Spent,
    StoreSnapshot,
    StreamEntry,
)
from b1.store.claims import Kept
from b1.store.operating import StoreUsage, Swept, pattern_of, usage_in
from b1.store.scripts import SCRIPTS
from b1.store.tally import Batch, Drained
from b1.store.terms import PLAIN, Offender, Terms
from b1.store.versions import REDIS_BUCKETS, bucket_of, new_epoch

_CHARGE_REPLY = 6
_OFFENDER_REPLY = 3
_CACHE_STATES = (CacheState.HIT, CacheState.CURRENT, CacheState.LEASED, CacheState.LOADING, CacheState.MISS)
_PART = struct.Struct(">III")
_U32_MOST = 2**32 - 1
# Longer than any batch is tried again; see `Reconciler`.
_MARK_MS = 3_600_000


class RedisStore:
    """All verbs over one link.

    Args:
        link: the transport; started and closed by whoever made it.
        namespace: separates applications that share a server. All keys share one hash tag, so that one script may
            touch any of them on a clustered server too.
        now_ms: replaces the server's clock, for tests.

    Raises:
        ValueError: the namespace is empty or has a brace, which would end the hash tag.
    """

    mode = "redis"

    def __init__(self, link: Link, namespace: str, *, now_ms: Callable[[], int] | None = None) -> None:
        if not namespace or "{" in namespace or "}" in namespace:
            raise ValueError(f"the namespace is {namespace!r}, expected some text without braces")
        self.prefix = f"b1:{{{namespace}}}:"
        self._link = link
        self._fixed_now_ms = now_ms
        for name, source in SCRIPTS.items():
            link.register(name, source)

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self.prefix!r}, link={self._link!r})"

    @property
    def is_up(self) -> bool:
        """True while a call would be sent."""
        return self._link.is_up

    @property
    def connects(self) -> int:
        """How often the link has connected; another number means that the server may be another, or have lost data."""
        return self._link.snapshot().connects

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        return (await self._decide(charges, None, terms, commit=commit)).spent

    async def enter(
        self, charges: Sequence[Charge], *, read: CacheRead | None = None, terms: Terms | None = None
    ) -> Entered:
        return await self._decide(charges, read, terms, commit=True)

    async def refund(self, charges: Sequence[Charge], *, holder: str = "") -> None:
        windows = [charge for charge in charges if charge.kind == "window"]
        others = [charge for charge in charges if charge.kind != "window"]
        calls = []
        if windows:
            arguments: list[Any] = [self._now()]
            for charge in windows:
                arguments += charge.window_ms, charge.cost
            calls.append(self._link.script("refund", [self.prefix + charge.key for charge in windows], arguments))
        if others:
            arguments = [self._now(), holder]
            for charge in others:
                arguments += charge.kind[0], charge.quota, charge.window_ms, charge.cost, charge.depth
            calls.append(self._link.script("give_back", [self.prefix + charge.key for charge in others], arguments))
        if len(calls) == 1:
            await calls[0]
        else:  # together: the link sends what is asked for in one turn of the loop in one write
            await asyncio.gather(*calls)

    async def _decide(
        self, charges: Sequence[Charge], read: CacheRead | None, terms: Terms | None, *, commit: bool
    ) -> Entered:
        """Run `enter`, or `decide` where more than plain windows are asked about."""
        terms = terms or PLAIN
        is_plain = terms is PLAIN and not any(charge.kind != "window" for charge in charges)
        what = "" if read is None else "v" if read.key is None else "e"
        count, offender = len(charges), None if terms.is_forced else terms.offender
        arguments: list[str | int | bytes] = [
            self._now(), 2 if terms.is_forced else 1 if commit else 0, count, what,
            0 if read is None else read.lease_ms, "" if read is None else new_epoch(), (read and read.held) or "",
        ]  # fmt: skip
        keys = [self.prefix + charge.key for charge in charges]
        least = 2 + _CHARGE_REPLY * count
        if is_plain:
            for charge in charges:
                arguments += charge.quota, charge.window_ms, charge.cost, 1 if charge.shadow else 0
        else:
            about = _about(offender)
            arguments += terms.holder, len(about)
            for charge in charges:
                arguments += charge.kind[0], charge.quota, charge.window_ms, charge.cost, 1 if charge.shadow else 0
                arguments.append(charge.depth)
            arguments += about
            if offender is not None:
                keys.append(self.prefix + offender.key)
                least += _OFFENDER_REPLY
        if read is not None:
            keys += self._cache_keys(read.key or "")
            arguments += [bucket_of(tag, REDIS_BUCKETS) for tag in read.tags]
        reply = await self._run("enter" if is_plain else "decide", keys, arguments, least)
        spent = _spent(reply, count, has_offender=offender is not None)
        has_read = read is not None and spent.allowed
        return Entered(spent, _cache_answer(reply[least:]) if has_read else None)

    async def drain(self, drained: Sequence[Drained]) -> None:
        """Take from buckets what was taken elsewhere."""
        arguments: list[str | int] = [self._now()]
        for bucket in drained:
            arguments += bucket.owed_us, bucket.left_us, bucket.most_us
        await self._link.script("drain", [self.prefix + bucket.key for bucket in drained], arguments)

    async def be_present(self, process: str, *, for_ms: int) -> int:
        """Say that this process shares the server, 0: no longer; return how many do."""
        reply = await self._link.script("present", [self.prefix + "store:processes"], [self._now(), process, for_ms])
        return reply if isinstance(reply, int) else 1

    async def store_if_unchanged(
        self, key: str, value: bytes | None, *, tags: tuple[str, ...], vector: bytes, ttl_ms: int
    ) -> bool:
        arguments: list[str | int | bytes] = [vector, ttl_ms, 0 if value is None else 1, value or b""]
        arguments += [bucket_of(tag, REDIS_BUCKETS) for tag in tags]
        return bool(await self._link.script("store_if_unchanged", self._cache_keys(key), arguments) == 1)

    async def invalidate(self, tags: Sequence[str] | None) -> None:
        buckets = sorted({bucket_of(tag, REDIS_BUCKETS) for tag in tags or ()})
        arguments: list[str | int | bytes] = [new_epoch(), 1 if tags is None else 0, *buckets]
        await self._link.script("invalidate", [self.prefix + "cache:versions"], arguments)

    async def penalise(self, key: str, rule: PenaltyRule, *, strikes: int = 1, pardon: bool = False) -> Penalty:
        arguments = [self._now(), strikes, 1 if pardon else 0, rule.threshold, rule.decay_ms, rule.forget_ms]
        reply = await self._run("penalise", [self.prefix + key], [*arguments, *rule.blocks_ms], 3)
        return Penalty(*reply)

    async def append(
        self, stream: str, data: bytes, *, keep: int, keep_bytes: int, ttl_ms: int, given_id: int = 0
    ) -> int:
        """Add an entry; `given_id`: the one it got elsewhere while Redis was away."""
        arguments = [self._now(), data, keep, keep_bytes, ttl_ms, given_id]
        reply = await self._link.script("append", self._stream_keys(stream), arguments)
        if not isinstance(reply, int):
            raise StoreUnavailable(f"the append script answered {reply!r}, expected a number")
        return reply

    async def read_since(self, stream: str, after: int, *, limit: int) -> Replay:
        reply = await self._run("read_since", self._stream_keys(stream), [after, limit], 1)
        entries = (StreamEntry(reply[at], reply[at + 1]) for at in range(1, len(reply), 2))
        return Replay(tuple(entries), reply[0] == 1)

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        reply = await self._run("claim", [self.prefix + key], [self._now(), fingerprint, lease_ms, GRACE_MS], 1)
        match reply:
            case [0, int(fence)]:
                return Claim(ClaimState.CLAIMED, fence=fence)
            case [1, int(retry_after_ms)]:
                return Claim(ClaimState.IN_FLIGHT, retry_after_ms=retry_after_ms)
            case [2, bytes(record)]:
                return Claim(ClaimState.FINISHED, record=record)
            case [3]:
                return Claim(ClaimState.MISMATCH)
        raise StoreUnavailable(f"the claim script answered {reply!r}, which this version does not know")

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        arguments = [self._now(), fence, lease_ms, GRACE_MS]
        return bool(await self._link.script("renew", [self.prefix + key], arguments) == 1)

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        arguments = [self._now(), fence, record, ttl_ms]
        return bool(await self._link.script("finish", [self.prefix + key], arguments) == 1)

    async def release(self, key: str, fence: int) -> bool:
        return bool(await self._link.script("release", [self.prefix + key], [fence, GRACE_MS]) == 1)

    async def merge(self, batch: Batch, *, waited_ms: int) -> int:
        """Add windows that were counted elsewhere, once per batch; return how many could not be read here."""
        keys = [f"{self.prefix}store:merged:{batch.name}"]
        arguments: list[str | int | bytes] = [self._now(), _MARK_MS if batch.is_owed else ""]
        for tally in batch.tallies:
            keys.append(self.prefix + tally.key)
            packed = [_PART.pack(min(age + waited_ms, _U32_MOST), known, owed) for age, known, owed in tally.parts]
            arguments += tally.window_ms, b"".join(packed)
        unreadable = await self._link.script("merge", keys, arguments)
        return unreadable if isinstance(unreadable, int) and unreadable > 0 else 0

    async def adopt(self, kept: Kept) -> bool:
        """Keep a record that was made elsewhere, unless its key has another owner or record here."""
        arguments = [self._now(), kept.fingerprint, kept.fence, kept.record, kept.ttl_ms]
        return bool(await self._link.script("adopt", [self.prefix + kept.key], arguments) == 1)

    async def usage(self) -> StoreUsage:
        """Ask the server how full it is.

        Raises:
            StoreUnavailable: it is away.
        """
        memory, clients, keys = await asyncio.gather(
            self._link.call("INFO", "memory"), self._link.call("INFO", "clients"), self._link.call("DBSIZE")
        )
        return usage_in(bytes(memory) + b"\n" + bytes(clients), int(keys))

    async def sweep(self, prefix: str, cursor: int, *, limit: int) -> Swept:
        """Remove finished claims whose keys begin with `prefix`, from the next slice of about `limit` keys.

        Raises:
            StoreUnavailable: the server is away.
        """
        arguments = [cursor, pattern_of(self.prefix + prefix), limit]
        reply = await self._run("sweep", [self.prefix + prefix], arguments, 2)
        return Swept(int(reply[0]) or None, reply[1])

    def snapshot(self) -> StoreSnapshot:
        link = self._link.snapshot()
        return StoreSnapshot(
            mode="redis",
            connected=link.is_up,
            keys=0,
            held_bytes=0,
            limit_bytes=0,
            round_trips=link.calls,
            errors=link.failures,
            latency_ms=link.latency_ms,
        )

    def _cache_keys(self, key: str) -> list[str]:
        entry = self.prefix + key
        return [self.prefix + "cache:versions", entry, entry + ":lease"]

    def _stream_keys(self, stream: str) -> list[str]:
        ring = self.prefix + stream
        return [ring, ring + ":sums"]

    async def _run(self, name: str, keys: list[str], arguments: list[Any], least: int) -> list[Any]:
        reply = await self._link.script(name, keys, arguments)
        if not isinstance(reply, list) or len(reply) < least:
            raise StoreUnavailable(f"the {name} script answered {reply!r}, expected {least} values or more")
        return reply

    def _now(self) -> int | str:
        return "" if self._fixed_now_ms is None else self._fixed_now_ms()


def _about(offender: Offender | None) -> list[int]:
    if offender is None:
        return []
    rule = offender.rule
    return [
        offender.strikes, offender.knocks, rule.threshold, rule.decay_ms, rule.forget_ms, rule.apart_ms, *rule.blocks_ms,
    ]  # fmt: skip


def _spent(reply: list[Any], count: int, *, has_offender: bool) -> Spent:
    balances = tuple(
        Balance(reply[at] == 1, *reply[at + 1 : at + _CHARGE_REPLY])
        for at in range(2, 2 + _CHARGE_REPLY * count, _CHARGE_REPLY)
    )
    after = 2 + _CHARGE_REPLY * count
    return Spent(reply[0] == 1, reply[1], balances, Penalty(*reply[after : after + 3]) if has_offender else None)


def _cache_answer(reply: list[Any]) -> CacheAnswer:
    match reply:
        case [int(number), bytes(vector), int(left_ms), bytes(value)] if 0 <= number < len(_CACHE_STATES):
            state = _CACHE_STATES[number]
            return CacheAnswer(state, value if state is CacheState.HIT else None, left_ms, vector)
    raise StoreUnavailable(f"the enter script answered {reply!r} for the cache, which this version does not know")
