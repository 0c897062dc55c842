"""Places for loads: at most so many towards the database at a time, waiting callers before refreshes.

A load that is part of another one goes on that one's place: waiting for a second place while holding the first is how two
loads lock each other out. So a load for which another load begins to wait is let go without a place.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turn:
    """One load's way through the places. Guarded by the event loop; written between awaits alone."""

    __slots__ = ("_waiter", "holds", "is_background", "is_free")

    def __init__(self, *, is_background: bool = False, is_free: bool = False) -> None:
        self.is_background = is_background
        self.is_free = is_free  # needs no place
        self.holds = ""  # "load" or "refresh" while it has a place
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def go(self) -> None:
        """Let it run."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Places:
    """Who loads, and who waits to.

    Args:
        loads: how many at a time.
        refreshes: how many of these for nobody who waits.
    """

    def __init__(self, loads: int, refreshes: int) -> None:
        self._loads = loads
        self._refreshes = refreshes
        self.running = 0
        self._refreshing = 0
        self._front: deque[Turn] = deque()
        self._back: deque[Turn] = deque()

    def __repr__(self) -> str:
        return f"<Places running={self.running}/{self._loads} waiting={self.waiting}>"

    @property
    def waiting(self) -> int:
        return len(self._front) + len(self._back)

    def try_take(self, turn: Turn) -> bool:
        """Take a place if there is one at once, or none is needed."""
        return turn.is_free or self._try(turn)

    async def take(self, turn: Turn) -> None:
        """Wait for a place; first come, first served, refreshes last. The caller's deadline ends it."""
        if self.try_take(turn):
            return
        queue = self._back if turn.is_background else self._front
        queue.append(turn)
        try:
            await turn.wait()
        except asyncio.CancelledError:
            self._withdraw(turn)
            self.give_back(turn)  # the place may have come in the same moment
            raise

    def give_back(self, turn: Turn) -> None:
        """Give the place back, if there is one, and let the next begin."""
        if not turn.holds:
            return
        self.running -= 1
        self._refreshing -= turn.holds == "refresh"
        turn.holds = ""
        self._next()

    def hurry(self, turn: Turn) -> None:
        """Somebody waits now: a refresh becomes a load like any other."""
        if not turn.is_background:
            return
        turn.is_background = False
        if turn.holds == "refresh":
            turn.holds = "load"
            self._refreshing -= 1
        if turn.is_waiting:
            self._withdraw(turn)
            self._front.append(turn)
        self._next()

    def free(self, turn: Turn) -> None:
        """Let it go without a place: another load waits for it, and holds one."""
        turn.is_free = True
        if turn.is_waiting:
            self._withdraw(turn)
            turn.go()

    def _try(self, turn: Turn) -> bool:
        if self.running >= self._loads or (self._front and not turn.is_background):
            return False
        if turn.is_background and (self._front or self._back or self._refreshing >= self._refreshes):
            return False
        self._give(turn)
        return True

    def _give(self, turn: Turn) -> None:
        self.running += 1
        self._refreshing += turn.is_background
        turn.holds = "refresh" if turn.is_background else "load"

    def _next(self) -> None:
        while self.running < self._loads:
            if self._front:
                turn = self._front.popleft()
            elif self._back and self._refreshing < self._refreshes:
                turn = self._back.popleft()
            else:
                return
            self._give(turn)
            turn.go()

    def _withdraw(self, turn: Turn) -> None:
        for queue in (self._front, self._back):
            if turn in queue:
                queue.remove(turn)
