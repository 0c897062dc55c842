"""Ends work that takes too long, with one timer for all requests.

A timer per request costs 8 us of its 60; most requests end in milliseconds and their timers are only armed and cancelled.
Here a request is an entry in a set, and a sweep that runs while the set is not empty ends what is due. The price: the end
comes up to `RESOLUTION_S` late.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

from b1.clock import DEADLINE

RESOLUTION_S = 0.25


class Watch:
    """One piece of work under watch. `has_expired`: its task was cancelled because its time was over."""

    __slots__ = ("_cancelling", "_watched", "end_s", "has_expired", "task")

    def __init__(self, task: asyncio.Task[Any], end_s: float, watched: set[Watch]) -> None:
        self.task = task
        self.end_s = end_s
        self.has_expired = False
        self._cancelling = task.cancelling()
        self._watched = watched

    def answered(self) -> None:
        """The answer begins: the work is not ended any more, and what a stream still reads has bounds of its own."""
        self._watched.discard(self)
        DEADLINE.set(None)

    def expire(self) -> None:
        """Cancel the work."""
        self.has_expired = True
        self.task.cancel()

    def take_back(self) -> bool:
        """Undo our cancellation, once it has arrived; say whether nobody else cancelled the task too."""
        return self.task.uncancel() <= self._cancelling


class Deadlines:
    """The watched work of one event loop; only its thread may touch it."""

    def __init__(self) -> None:
        self._watched: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # the timer is nobody's: in a request's own it would keep that request

    def __repr__(self) -> str:
        return f"<Deadlines watched={len(self._watched)}>"

    def begin(self, limit_s: float, task: asyncio.Task[Any] | None = None) -> Watch:
        """Watch the current task: it is cancelled in `limit_s` seconds unless `end` is called before.

        Args:
            task: the current one, from whoever has asked for it already: in Python 3.11 that is not cheap.
        """
        task = task or asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        watch = Watch(task, loop.time() + limit_s, self._watched)
        self._watched.add(watch)
        if self._timer is None:
            self._timer = loop.call_later(min(limit_s, RESOLUTION_S), self._sweep, loop, context=self._context)
        return watch

    def end(self, watch: Watch) -> None:
        """Stop watching; harmless when it was done before."""
        self._watched.discard(watch)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now_s = loop.time()
        for watch in [watch for watch in self._watched if watch.end_s <= now_s]:
            self._watched.discard(watch)
            watch.expire()
        if self._watched:
            # Not armed for the next end: requests come and go, and an exact timer would be set anew by each of them.
            nearest_s = min(watch.end_s for watch in self._watched) - now_s
            delay_s = max(0.001, min(nearest_s, RESOLUTION_S))
            self._timer = loop.call_later(delay_s, self._sweep, loop, context=self._context)
