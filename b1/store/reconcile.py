"""What this process owes Redis after it was away, and paying it: limits, records, invalidations, replay entries.

Nothing waits for all of it. A call that needs a key pays for that key first, on the same connection, where commands stay
in order; the rest follows in small batches with pauses, so that a return is no load of its own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from b1.store.base import Charge, Spent, Store
from b1.store.claims import Kept
from b1.store.memory import MemoryStore
from b1.store.mirror import Mirror
from b1.store.operating import StoreUsage, Swept
from b1.store.passing.debts import Owed, decode, encode
from b1.store.passing.origin import Shift
from b1.store.tally import Batch, Drained, OwedEntry, Tally
from b1.store.terms import Terms
from b1.store.window import Part, opens_at_ms

BATCH_KEYS = 32
PAUSE_S = 0.01
_TAGS = 4096
_ENTRIES = 1024
_ENTRY_BYTES = 1024 * 1024
_UNSURE = 256
# Shorter than the server remembers that a batch was applied.
_UNSURE_MS = 3_000_000


class Remote(Store, Protocol):
    """A store that goes away and comes back, and can be told what happened in between."""

    @property
    def is_up(self) -> bool: ...

    @property
    def connects(self) -> int: ...

    @property
    def versions(self) -> Mirror: ...

    def spend_soon(
        self,
        charges: Sequence[Charge],
        terms: Terms,
        tell: Callable[[Spent | None], None],
        *,
        is_patient: bool = False,
    ) -> bool: ...

    async def merge(self, batch: Batch, *, waited_ms: int) -> int: ...

    async def drain(self, drained: Sequence[Drained]) -> None: ...

    async def be_present(self, process: str, *, for_ms: int) -> int: ...

    async def adopt(self, kept: Kept) -> bool: ...

    async def usage(self) -> StoreUsage: ...

    async def sweep(self, prefix: str, cursor: int, *, limit: int) -> Swept: ...

    async def append(
        self, stream: str, data: bytes, *, keep: int, keep_bytes: int, ttl_ms: int, given_id: int = 0
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class ReconcileSnapshot:
    """What is owed now, and what was paid since the start.

    Attributes:
        owed_keys: windows that Redis does not fully know.
        owed_records: finished claims that Redis does not have.
        unsure_batches: sent, and not known to have arrived.
        merged_keys, written_records: paid.
        forgiven: windows, entries and batches that could not be paid: unreadable in Redis, or over a bound.
    """

    owed_keys: int
    owed_records: int
    unsure_batches: int
    merged_keys: int
    written_records: int
    forgiven: int


class Reconciler:
    """Debts of one process. Every list has a bound; between two awaits all of it is consistent.

    Args:
        remote: whom it is owed.
        memory: where windows and records are.
    """

    def __init__(self, remote: Remote, memory: MemoryStore) -> None:
        self._remote = remote
        self._memory = memory
        self._process = secrets.token_hex(8)
        self._batches = 0
        self._unsure: deque[Batch] = deque()
        self._tags: dict[str, bool] | None = {}  # whether hard
        self._entries: deque[OwedEntry] = deque()
        self._entry_bytes = 0
        # Units that a predecessor counted and no seam tells apart: key, window_ms, units by counter.
        self._loose: deque[tuple[str, int, list[tuple[int, int]]]] = deque()
        self._merged = self._written = self._forgiven = 0

    def __repr__(self) -> str:
        return f"Reconciler({self.snapshot()!r})"

    @property
    def owes(self) -> bool:
        """Say whether anything is owed; cheap enough for every call."""
        memory = self._memory
        windows, claims = memory.windows.owed, memory.claims.owed
        return bool(
            windows or memory.buckets.owed or self._unsure or self._loose or claims or self.owes_cache or self._entries
        )

    @property
    def owes_cache(self) -> bool:
        """Say whether an invalidation has to be repeated."""
        return self._tags is None or bool(self._tags)

    def owe_tags(self, tags: Sequence[str] | None, soft: Sequence[str] = ()) -> None:
        """An invalidation did not reach Redis; too many become one of everything."""
        if tags is None or self._tags is None or len(self._tags) + len(tags) + len(soft) > _TAGS:
            self._tags = None
            return
        for tag in soft:
            self._tags.setdefault(tag, False)
        self._tags.update(dict.fromkeys(tags, True))

    def owe_entry(self, entry: OwedEntry) -> None:
        """An entry was appended here; the oldest are forgiven beyond the bound."""
        self._entries.append(entry)
        self._entry_bytes += len(entry.data)
        while len(self._entries) > _ENTRIES or self._entry_bytes > _ENTRY_BYTES:
            self._entry_bytes -= len(self._entries.popleft().data)
            self._forgiven += 1

    def owe_units(self, key: str, window_ms: int, units: list[tuple[int, int]]) -> None:
        """A predecessor counted units that Redis has not."""
        self._loose.append((key, window_ms, units))

    def leave(self) -> tuple[dict[str, Any], bytes, int]:
        """Let a successor owe all but windows and records; return it as fields, blob and count."""
        self._bundle()
        tags = None if self._tags is None else tuple(self._tags)  # hard all of them: too much, never too little
        owed = Owed(tags, tuple(self._entries), tuple(self._unsure))
        self._tags, self._entry_bytes = {}, 0
        self._entries.clear()
        self._unsure.clear()
        return *encode(owed), owed.count

    def take(self, fields: Mapping[str, Any], blob: memoryview, shift: Shift) -> int:
        """Owe what a predecessor left; return how much.

        Raises:
            ValueError: it does not add up, and nothing was taken.
        """
        owed = decode(fields, blob, shift)
        if owed.tags is None or owed.tags:
            self.owe_tags(owed.tags)
        for entry in owed.entries:
            self.owe_entry(entry)
        self._unsure.extend(owed.batches)
        return owed.count

    async def pay_windows(self, keys: Collection[str]) -> None:
        """Tell Redis about these windows and buckets, before it is asked about them.

        Raises:
            StoreUnavailable: it is still owed.
        """
        owed = self._memory.windows.owed
        self._bundle()
        while self._unsure:
            await self._send(self._unsure.popleft())
        mine = [key for key in keys if key in owed]
        if mine:
            await self._send(self._batch(mine))
        buckets = [key for key in keys if key in self._memory.buckets.owed]
        if buckets:
            await self._drain(buckets)

    async def pay_cache(self) -> None:
        """Repeat the invalidations, before anything is read from the shared cache.

        Raises:
            StoreUnavailable: they are still owed.
        """
        if not self.owes_cache:
            return
        owed, self._tags = self._tags, {}
        hard = None if owed is None else [tag for tag, is_hard in owed.items() if is_hard]
        soft = [tag for tag, is_hard in (owed or {}).items() if not is_hard]
        try:
            await self._remote.invalidate(hard, soft=soft)
        except BaseException:
            self.owe_tags(hard, soft)
            raise

    async def pay_entries(self) -> None:
        """Append what was appended here, before anything newer is.

        Raises:
            StoreUnavailable: some are still owed.
        """
        while self._entries:
            entry = self._entries[0]
            await self._remote.append(
                entry.stream,
                entry.data,
                keep=entry.keep,
                keep_bytes=entry.keep_bytes,
                ttl_ms=entry.ttl_ms,
                given_id=entry.id,
            )
            # Another task may have paid the same one meanwhile; Redis has it once.
            if self._entries and self._entries[0] is entry:
                self._entry_bytes -= len(self._entries.popleft().data)

    async def pay_all(self) -> None:
        """Pay everything, in batches with pauses; what arises meanwhile is left to the next time.

        Raises:
            StoreUnavailable: some is still owed.
        """
        await self.pay_cache()
        await self.pay_entries()
        # Before the counters: a record that is lost is a second effect, and a counter that is lost is a few requests.
        await self._in_batches(self._memory.claims.owed, self._write)
        await self.pay_windows(())
        windows = self._memory.windows.owed
        await self._in_batches(windows, lambda keys: self._send(self._batch(keys)))
        await self._in_batches(self._memory.buckets.owed, self._drain)

    def snapshot(self) -> ReconcileSnapshot:
        """Return numbers; no I/O."""
        return ReconcileSnapshot(
            owed_keys=len(self._memory.windows.owed) + len(self._memory.buckets.owed),
            owed_records=len(self._memory.claims.owed),
            unsure_batches=len(self._unsure) + -(-len(self._loose) // BATCH_KEYS),
            merged_keys=self._merged,
            written_records=self._written,
            forgiven=self._forgiven,
        )

    @staticmethod
    async def _in_batches(owed: Iterable[str], pay: Callable[[list[str]], Awaitable[None]]) -> None:
        todo = list(owed)
        for start in range(0, len(todo), BATCH_KEYS):
            if start:
                await asyncio.sleep(PAUSE_S)
            await pay(todo[start : start + BATCH_KEYS])

    def _bundle(self) -> None:
        """Make batches of loose units."""
        now_ms = self._memory.now_ms()
        while self._loose:
            tallies: list[Tally] = []
            while self._loose and len(tallies) < BATCH_KEYS:
                key, window_ms, units = self._loose.popleft()
                ages_ms = [max(0, now_ms - opens_at_ms(counter + 1, window_ms) + 1) for counter, _ in units]
                parts = [Part(age_ms, 0, count) for age_ms, (_, count) in zip(ages_ms, units, strict=True)]
                tallies.append(Tally(key, window_ms, parts))
            self._batches += 1
            self._unsure.append(Batch(f"{self._process}:{self._batches}", tuple(tallies), now_ms, True))

    def _batch(self, keys: list[str]) -> Batch:
        """Take these keys off the list: from here on the batch carries what is owed for them."""
        now_ms = self._memory.now_ms()
        tallies = []
        for key in keys:
            found = self._memory.windows.hand_over(key, now_ms)
            if found is not None:
                tallies.append(Tally(key, *found))
        self._batches += 1
        is_owed = any(part.owed for tally in tallies for part in tally.parts)
        return Batch(f"{self._process}:{self._batches}", tuple(tallies), now_ms, is_owed)

    async def _send(self, batch: Batch) -> None:
        waited_ms = self._memory.now_ms() - batch.made_ms
        if not batch.tallies:
            return
        if waited_ms > _UNSURE_MS:
            self._forgiven += len(batch.tallies)
            return
        try:
            self._forgiven += await self._remote.merge(batch, waited_ms=waited_ms)
        except BaseException:
            # Whether it arrived is unknown; Redis will recognise it.
            self._unsure.append(batch)
            if len(self._unsure) > _UNSURE:
                self._forgiven += len(self._unsure.popleft().tallies)
            raise
        self._merged += len(batch.tallies)

    async def _drain(self, keys: list[str]) -> None:
        buckets = self._memory.buckets
        drained = buckets.hand_over(keys, self._memory.now_ms() * 1000)
        if not drained:
            return
        try:
            await self._remote.drain(drained)
        except BaseException:
            # It may have arrived; told twice it is stricter for a while, never laxer.
            buckets.owe(drained)
            raise
        self._merged += len(drained)

    async def _write(self, keys: list[str]) -> None:
        claims = self._memory.claims
        for key in keys:
            kept = claims.kept(key, self._memory.now_ms())
            if kept is None:
                claims.owed.pop(key, None)
                continue
            if await self._remote.adopt(kept):
                claims.handed_over(key, self._memory.now_ms())
                self._written += 1
            else:
                # Somebody else owns the key there; what is kept here is still the answer to this process's clients.
                claims.owed.pop(key, None)
                self._forgiven += 1
