"""The deadline of one call, and what a missed one says about the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from b1.errors import StoreUnavailable


class Overdue:
    """Fails a call's future when its time is over; two timers, never a task.

    After the loop was blocked, timers fire before the reply that has long arrived is read. So the first step only
    sets the second one, a few turns of the loop later, and a reply in the socket wins.

    Args:
        future: the call's reply.
        limit_s: how long it may take.
        missed: called when the future was failed.
    """

    __slots__ = ("_future", "_limit_s", "_missed", "_timer")

    def __init__(self, future: asyncio.Future[Any], limit_s: float, missed: Callable[[], None]) -> None:
        self._future = future
        self._limit_s = limit_s
        self._missed = missed
        self._timer = future.get_loop().call_later(limit_s * 0.9, self._almost)

    def cancel(self) -> None:
        """The call is over, one way or another."""
        self._timer.cancel()

    def _almost(self) -> None:
        self._timer = self._future.get_loop().call_later(self._limit_s * 0.1, self._over)

    def _over(self) -> None:
        if not self._future.done():
            self._future.set_exception(StoreUnavailable(f"Redis did not answer within {self._limit_s * 1000:.0f} ms"))
            self._missed()
