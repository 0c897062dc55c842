"""The second connection, which exists only while it is needed and lives in a host slot of its own.

Whoever holds the other slot may be another process: then there is no reserve. It is asked for with a reason, and each
use is counted under it. Closed when idle, at once when another process wants the slot.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

from b1.clock import DEADLINE
from b1.errors import StoreUnavailable
from b1.link.options import ReserveSnapshot
from b1.link.wire import Wire
from b1.slots import Slot, Slots

# stalled: the main connection is to be replaced; emergency: writes under critical memory; last_words: at the stop.
Reason = Literal["stalled", "emergency", "last_words"]

_GOODBYE_LIMIT_S = 0.25
_IDLE_STEP_S = 0.05
# A slot whose last holder was killed: the server sees the end of its connection within a turn of its loop.
KILLED_HOLDER_S = 0.05


def _nothing() -> None:
    return None


class Reserve:
    """At most one connection beside the main one.

    Args:
        dial: opens a connection in a slot; raises `StoreUnavailable` when it cannot.
        slots: of this host.
        idle_s: how long it stays open after its last use.
    """

    def __init__(self, dial: Callable[[Slot], Awaitable[Wire]], slots: Slots, *, idle_s: float) -> None:
        self._dial = dial
        self._slots = slots
        self._idle_s = idle_s
        self._wire: Wire | None = None
        self._slot: Slot | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._is_parting = False
        self._users = 0
        self._used: Counter[str] = Counter()
        self._failed = self._promoted = 0

    def __repr__(self) -> str:
        return f"Reserve({self.snapshot()!r})"

    @property
    def connections(self) -> int:
        """Sockets to the server, opening ones included."""
        return int(self._slot is not None)

    def snapshot(self) -> ReserveSnapshot:
        """Return its state and its uses."""
        state = "closed" if self._slot is None else "opening" if self._wire is None else "open"
        return ReserveSnapshot(state, tuple(sorted(self._used.items())), self._failed, self._promoted)

    @asynccontextmanager
    async def use(self, reason: Reason, *, instead: Callable[[], Wire | None] = _nothing) -> AsyncIterator[Wire]:
        """Have the second connection for a while; those who use it at the same time share it.

        Args:
            instead: gives what will do when there is no second connection.

        Raises:
            StoreUnavailable: there is no slot for it, or the server cannot be reached; and nothing else will do.
        """
        self._used[reason] += 1
        self._users += 1
        try:
            yield await self._open_or(instead)
        finally:
            self._users -= 1
            if self._users == 0:
                self._close_soon()

    def promote(self) -> tuple[Wire, Slot]:
        """Give the connection and its slot away, for good: it is the main one now."""
        wire, slot = self._wire, self._slot
        assert wire is not None and slot is not None, "only an open reserve is promoted"
        self._wire = self._slot = None
        self._promoted += 1
        return wire, slot

    async def aclose(self) -> None:
        """Close it, whoever uses it."""
        tasks = [task for task in (self._opening, self._closing) if task is not None]
        self._opening = self._closing = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close()

    async def _open_or(self, instead: Callable[[], Wire | None]) -> Wire:
        try:
            return await self._open()
        except StoreUnavailable:
            other = instead()
            if other is None:
                raise
            return other

    async def _open(self) -> Wire:
        if self._closing is not None:
            if not self._is_parting:
                self._closing.cancel()
            await asyncio.wait([self._closing])
            self._closing = None
        if self._wire is not None and not self._wire.is_usable:
            await self._close()
        if self._wire is not None:
            return self._wire
        if self._opening is None:
            self._opening = asyncio.create_task(self._dial_once(), name="b1-link-reserve")
        opening = self._opening
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            if self._users == 1:  # nobody else waits for it
                opening.cancel()
                await asyncio.wait([opening])
            raise
        if opening.cancelled():
            raise StoreUnavailable("the reserve connection to Redis is being closed")
        return opening.result()

    async def _dial_once(self) -> Wire:
        DEADLINE.set(None)  # of whoever asked first; others wait for it too
        try:
            self._slot = slot = self._slots.take()
            if slot is None:
                raise StoreUnavailable("there is no reserve: another process holds the host's second connection")
            if not slot.record.is_clean:
                await asyncio.sleep(KILLED_HOLDER_S)
            self._wire = await self._dial(slot)
            return self._wire
        except BaseException:
            self._failed += 1
            self._free()
            raise
        finally:
            self._opening = None

    def _close_soon(self) -> None:
        if self._slot is not None and (self._closing is None or self._closing.done()):
            self._closing = asyncio.create_task(self._close_when_idle(), name="b1-link-reserve-idle")

    async def _close_when_idle(self) -> None:
        until_s = asyncio.get_running_loop().time() + self._idle_s
        # A lock of another process cannot be awaited, only looked at.
        while asyncio.get_running_loop().time() < until_s and not self._slots.others_want():  # noqa: ASYNC110
            await asyncio.sleep(min(_IDLE_STEP_S, self._idle_s))
        self._is_parting = True
        try:
            await self._close()
        finally:
            self._is_parting = False

    async def _close(self) -> None:
        wire, self._wire = self._wire, None
        try:
            if wire is not None and await part(wire) and self._slot is not None:
                self._slot.note_clean()
        finally:
            self._free()

    def _free(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.free()


async def part(wire: Wire) -> bool:
    """Say goodbye and close; True when the server is known to have closed it."""
    try:
        wire.goodbye()
        return bool((await asyncio.wait([wire.ended], timeout=_GOODBYE_LIMIT_S))[0])
    finally:
        wire.end(ConnectionError("closed by us"))
