"""What is stored, or given up, in one turn of the loop travels to the shared store together: one call, one task.

A call belongs to nobody who waits for it: what a load stored, and a lease that nobody needs any more, get there also when
those who asked have gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from b1.clock import DEADLINE
from b1.store.base import CacheWrite

# In one call, which the store divides into scripts.
_MOST = 512
# Values on their way, in all calls; one more is not stored, and only its lease ends.
_MOST_BYTES = 16 * 1024 * 1024
_Told = list[tuple[CacheWrite, "asyncio.Future[None] | None"]]


class Writing:
    """Gathers writes. Guarded by the event loop.

    Args:
        store_many: the call; None when the store does not answer. It has a time limit, and raises nothing.
        refused: called for each value that was not kept, with the reason: ``changed``, something had moved, or ``no_room``.
    """

    def __init__(
        self,
        store_many: Callable[[Sequence[CacheWrite]], Awaitable[list[bool] | None]],
        refused: Callable[[str], None],
    ) -> None:
        self._store_many = store_many
        self._refused = refused
        self._told: _Told = []
        self._calls: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Writing told={len(self._told)} calls={len(self._calls)} held={self._held_bytes} B>"

    async def keep(self, write: CacheWrite) -> None:
        """Have it kept, and wait until the store has answered."""
        if self._is_closed:
            return
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tell(write, told)
        await told

    def send(self, write: CacheWrite) -> None:
        """Have it kept, or given up; nobody waits for that. After `aclose` it is left out: leases end by themselves."""
        if not self._is_closed:
            self._tell(write, None)

    async def aclose(self, limit_s: float) -> None:
        """Let what was told arrive, for so long at most."""
        if self._told:
            self._begin(self._told)
        self._is_closed = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=limit_s)
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _tell(self, write: CacheWrite, waiting: asyncio.Future[None] | None) -> None:
        size = len(write.value or b"")
        if self._held_bytes + size > _MOST_BYTES:
            self._refused("no_room")
            write, size = write._replace(value=None), 0
        self._held_bytes += size
        told = self._told
        if not told:
            asyncio.get_running_loop().call_soon(self._begin, told)
        told.append((write, waiting))
        if len(told) == _MOST:
            self._told = []

    def _begin(self, told: _Told) -> None:
        if not told or self._is_closed:
            return  # it has begun before its turn
        if self._told is told:
            self._told = []
        deadline = DEADLINE.set(None)  # of whoever told first
        try:
            call = asyncio.get_running_loop().create_task(self._bring(list(told)), name="b1-cache-write")
        finally:
            DEADLINE.reset(deadline)
        told.clear()
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _bring(self, told: _Told) -> None:
        try:
            stored = await self._store_many([write for write, _ in told])
            for (write, _), is_kept in zip(told, stored or (), strict=False):
                if not is_kept and write.value is not None:
                    self._refused("changed")
        finally:
            self._held_bytes -= sum(len(write.value or b"") for write, _ in told)
            for _, waiting in told:
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
