"""How many processes share the Redis, so that each takes its part of the quotas when it is away.

It is asked once in a while along with other calls: the link sends what is asked for in one turn of the loop in one
write, so no request waits for it. A process that asks nothing spends nothing, and is forgotten after a minute.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

from b1.clock import DEADLINE, Clock
from b1.errors import StoreUnavailable

_EVERY_S = 5.0
# Whoever asks once and ends at once is no instance.
_FIRST_AFTER_S = 1.0
_COUNTS_MS = 60_000
_LEAVE_S = 0.25


class Register(Protocol):
    """Where processes say that they are there."""

    @property
    def is_up(self) -> bool: ...

    async def be_present(self, process: str, *, for_ms: int) -> int: ...


class Instances:
    """Counts the processes, this one included.

    Args:
        register: asked while it is up.
        configured: how many are assumed as long as nobody said.
    """

    def __init__(self, register: Register, clock: Clock, *, configured: int = 1) -> None:
        self._register = register
        self._clock = clock
        self._process = secrets.token_hex(8)
        self._heard = 0
        self._configured = max(1, configured)
        self._due_s = clock.monotonic() + _FIRST_AFTER_S
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Instances(count={self.count}, heard={self._heard})"

    @property
    def count(self) -> int:
        """How many there were when it was last heard."""
        return self._heard or self._configured

    def announce(self) -> None:
        """Ask again if it is time to; call it whenever the register has answered something."""
        now_s = self._clock.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask(), name="b1-store-present")

    async def aclose(self) -> None:
        """Leave, so that those who stay have more; bounded."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._heard and self._register.is_up:
            try:
                async with asyncio.timeout(_LEAVE_S):
                    await self._register.be_present(self._process, for_ms=0)
            except (StoreUnavailable, TimeoutError):
                return  # it is forgotten by itself

    async def _ask(self) -> None:
        DEADLINE.set(None)  # of whoever was answered
        try:
            self._heard = max(1, await self._register.be_present(self._process, for_ms=_COUNTS_MS))
        except StoreUnavailable:
            return  # what was heard before stands; the next answer asks again
