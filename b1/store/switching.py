"""Going from Redis to memory and back: may Redis be asked, what follows when it did not answer, and who looks for it.

A call that Redis does not answer is memory's. From then on one task looks for Redis, tells it what it is owed, and ends
when nothing is owed any more. Whoever has left its state to a successor asks and pays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from b1.clock import DEADLINE
from b1.errors import StoreUnavailable
from b1.store.base import Charge
from b1.store.memory import MemoryStore
from b1.store.presence import Presence
from b1.store.reconcile import Reconciler, Remote

_LOOK_EVERY_S = 0.2
_PROBE = Charge("store:probe", 1_000_000, 1000)


class Switching:
    """The way between a Redis store and the memory behind it. Its task is ended by `stop_looking`.

    Args:
        debts: what Redis is owed.
        presence: whether it is there, as calls have shown it.
        announce: called whenever Redis did answer.

    Attributes:
        has_left: what is owed is a successor's now, and nobody pays it here.
    """

    def __init__(
        self, redis: Remote, memory: MemoryStore, debts: Reconciler, presence: Presence, announce: Callable[[], None]
    ) -> None:
        self.has_left = False
        self._redis = redis
        self._memory = memory
        self._debts = debts
        self._presence = presence
        self._announce = announce
        self._connects = -1  # the connection that memory follows; -1: none yet
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        is_looking = self._task is not None and not self._task.done()
        return f"Switching({self._presence!r}, is_looking={is_looking}, has_left={self.has_left})"

    async def reach(self, charges: Sequence[Charge] = ()) -> None:
        """Make sure that Redis may be asked about `charges`: it is there, and knows what was counted here.

        Raises:
            StoreUnavailable: it may not.
        """
        if self.has_left:
            raise StoreUnavailable("what is owed to Redis was left to a successor")
        if not (self._presence.is_local or self._debts.owes):
            return
        if not self._redis.is_up:
            raise StoreUnavailable("Redis is away")
        self._note_connection()
        if charges:
            await self._debts.pay_windows([charge.key for charge in charges])

    async def reach_cache(self) -> None:
        """Make sure that Redis may be asked about cached values: it knows what was invalidated here.

        Raises:
            StoreUnavailable: it may not.
        """
        await self.reach()
        if self._debts.owes_cache:
            await self._debts.pay_cache()

    def failed(self, reason: StoreUnavailable) -> None:
        """Note a call that Redis did not answer, and that memory does."""
        if self._presence.failed(reason, is_up=self._redis.is_up):
            # Nobody hears of other processes' invalidations from now on, nor did memory of those before.
            self._memory.entries.invalidate(None)
            self._redis.versions.is_away = True
        self.look_for_return()

    def answered(self) -> None:
        """Note that Redis did answer."""
        if self._presence.is_local:
            self._redis.versions.note_return()
        self._presence.answered()
        self._announce()
        if self._connects == -1:
            self._connects = self._redis.connects

    def look_for_return(self) -> None:
        """Have the task run until Redis is there and nothing is owed."""
        if not self.has_left and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._come_back(), name="b1-store-return")

    async def stop_looking(self) -> None:
        """End the task."""
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

    def _note_connection(self) -> None:
        connects = self._redis.connects
        if self._connects not in (-1, connects):
            self._memory.windows.owe_all()
        self._connects = connects

    async def _come_back(self) -> None:
        DEADLINE.set(None)  # of whoever saw it go
        while self._presence.is_local or self._debts.owes:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._redis.versions.pass_time()
            if not self._redis.is_up:
                continue
            try:
                self._note_connection()
                # A script that writes: a server that only reads, or has no memory, is not back.
                await self._redis.spend([_PROBE])
                self.answered()
                await self._debts.pay_all()
            except StoreUnavailable:
                continue
