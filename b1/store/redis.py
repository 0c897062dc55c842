"""The store in a Redis or Valkey server: one Lua script and one round trip per verb, on the server's clock.

It knows nothing of connections (the link does) and never answers from local state (`FallbackStore` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from b1.clock import Clock, SystemClock
from b1.errors import StoreUnavailable
from b1.link import Link, ReplyError
from b1.link.replies import Argument
from b1.store.asked_cache import cache_answer, packed_tags
from b1.store.asking import Asked, Question, question_of
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
    StreamEntry,
)
from b1.store.claims import Kept
from b1.store.mirror import Mirror
from b1.store.operating import StoreUsage, Swept, pattern_of, usage_in
from b1.store.remote_cache import RemoteCache
from b1.store.remote_claims import RemoteClaims
from b1.store.scripts import SCRIPTS
from b1.store.tally import Batch, Drained, asked_of
from b1.store.terms import PLAIN, Terms
from b1.store.versions import new_epoch


class RedisStore:
    """All verbs over one link.

    Args:
        link: the transport; started and closed by whoever made it.
        namespace: separates applications that share a server. All keys share one hash tag, so that one script may
            touch any of them on a clustered server too.
        now_ms: replaces the server's clock, for tests.
        clock: tells how long the server has been away.
        away_limit_s: for how long copies stay fresh while it is.

    Raises:
        ValueError: the namespace is empty or has a brace, which would end the hash tag.
    """

    mode = "redis"

    def __init__(
        self,
        link: Link,
        namespace: str,
        *,
        now_ms: Callable[[], int] | None = None,
        clock: Clock | None = None,
        away_limit_s: float = 30.0,
    ) -> None:
        if not namespace or "{" in namespace or "}" in namespace:
            raise ValueError(f"the namespace is {namespace!r}, expected some text without braces")
        self.prefix = f"b1:{{{namespace}}}:"
        self._link = link
        self._fixed_now_ms = now_ms
        self._mirror = Mirror(clock or SystemClock(), lambda: link.is_up, away_limit_s=away_limit_s)
        self._cache = RemoteCache(link, self.prefix, self._mirror)
        self._claims = RemoteClaims(link, self.prefix, self._now)
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

    @property
    def versions(self) -> Mirror:
        """The versions as this process knows them; exact only after `keep_mirror`."""
        return self._mirror

    def keep_mirror(self, *, heartbeat_s: float = 15.0) -> None:
        """Follow what other processes invalidate, by pushes on the link; before the link is started.

        Args:
            heartbeat_s: how often the server is asked whether a push is missing.

        Raises:
            RuntimeError: the link is running.
        """
        self._cache.keep_mirror(heartbeat_s=heartbeat_s)

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True, terms: Terms | None = None) -> Spent:
        terms = terms or PLAIN
        question = question_of(self.prefix, charges, terms)
        command = self._command(question, terms) if commit else None
        if command is not None:
            reply = asyncio.get_running_loop().create_future()
            try:
                self._link.post(command, reply)
            except StoreUnavailable:
                pass  # where a line of another kind may serve, the general way finds it
            else:
                try:
                    return question.layout.read(await reply)
                except ReplyError as error:
                    if error.word != "NOSCRIPT":
                        raise
        return question.layout.read(
            await self._link.script("enter", question.keys, self._asked(question, terms, commit))
        )

    def spend_soon(
        self,
        charges: Sequence[Charge],
        terms: Terms,
        tell: Callable[[Spent | None], None],
        *,
        is_patient: bool = False,
    ) -> bool:
        """Do what `spend` does without a task: `tell` hears of the decision, or None, in the call that reads the reply.

        Args:
            is_patient: nobody waits for it; see `Link.post`.

        Returns:
            False when nothing was sent, and `tell` will hear nothing.
        """
        question = question_of(self.prefix, charges, terms)
        command = self._command(question, terms)
        if command is None:
            return False
        try:
            self._link.post(command, Asked(question.layout, tell), is_patient=is_patient)
        except StoreUnavailable:
            return False
        return True

    def _command(self, question: Question, terms: Terms) -> bytes | None:
        """Return the whole call of a question that is asked again and again in the same words; None for any other."""
        if terms.holder or terms.is_forced or self._fixed_now_ms is not None:
            return None
        if question.command is None:
            question.command = self._link.packed("enter", question.keys, self._asked(question, terms, True))
        return question.command

    async def enter(
        self, charges: Sequence[Charge], *, read: CacheRead | None = None, terms: Terms | None = None
    ) -> Entered:
        if read is None:
            return Entered(await self.spend(charges, terms=terms), None)
        terms = terms or PLAIN
        question = question_of(self.prefix, charges, terms)
        arguments = self._asked(question, terms, True)
        arguments += "v" if read.key is None else "e", read.lease_ms, new_epoch(), read.held or ""
        arguments.append(packed_tags(read.tags))
        reply = await self._link.script("enter", question.keys + self._cache.keys_of(read.key or ""), arguments)
        if type(reply) is list and reply:
            answer = cache_answer(reply[1:])
            self._mirror.learn(read.tags, answer.vector)
            return Entered(question.layout.read(reply[0]), answer)
        return Entered(question.layout.read(reply), None)  # refused: nothing was read

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

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        self._mirror.mark(tags, soft)

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None:
        await self._cache.invalidate(tags, soft=soft)

    @property
    def owes_invalidations(self) -> bool:
        return self._mirror.has_marks

    async def barrier(self) -> bool:
        return await self._cache.barrier()

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
        return await self._claims.claim(key, fingerprint, lease_ms=lease_ms)

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        return await self._claims.renew(key, fence, lease_ms=lease_ms)

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        return await self._claims.finish(key, fence, record, ttl_ms=ttl_ms)

    async def release(self, key: str, fence: int) -> bool:
        return await self._claims.release(key, fence)

    async def merge(self, batch: Batch, *, waited_ms: int) -> int:
        """Add windows that were counted elsewhere, once per batch; return how many could not be read here."""
        arguments: list[Argument] = [self._now(), *asked_of(batch, waited_ms)]
        keys = [f"{self.prefix}store:merged:{batch.name}", *(self.prefix + tally.key for tally in batch.tallies)]
        unreadable = await self._link.script("merge", keys, arguments)
        return unreadable if isinstance(unreadable, int) and unreadable > 0 else 0

    async def adopt(self, kept: Kept) -> bool:
        """Keep a record that was made elsewhere, unless its key has another owner or record here."""
        return await self._claims.adopt(kept)

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

    def _stream_keys(self, stream: str) -> list[str]:
        ring = self.prefix + stream
        return [ring, ring + ":sums"]

    async def _run(self, name: str, keys: list[str], arguments: list[Any], least: int) -> list[Any]:
        reply = await self._link.script(name, keys, arguments)
        if not isinstance(reply, list) or len(reply) < least:
            raise StoreUnavailable(f"the {name} script answered {reply!r}, expected {least} values or more")
        return reply

    def _asked(self, question: Question, terms: Terms, commit: bool) -> list[Argument]:
        packed = question.packed + terms.holder.encode() if terms.holder else question.packed
        return [self._now(), 2 if terms.is_forced else 1 if commit else 0, packed]

    def _now(self) -> int | str:
        return "" if self._fixed_now_ms is None else self._fixed_now_ms()
