"""Ends work that takes too long, with one timer for all requests.

A timer per request costs 8 us of its 60; most requests end in milliseconds and their timers are only armed and cancelled.
Here a request is an entry in a set, and a sweep that runs while the set is not empty ends what is due. The price: the end
comes up to `RESOLUTION_S` late.
"""

from __future__ import annotations

import asyncio

RESOLUTION_S = 0.25


class Watch:
    """One piece of work under watch. `has_expired`: its task was cancelled because its time was over."""

    __slots__ = ("_cancelling", "end_s", "has_expired", "task")

    def __init__(self, task: asyncio.Task[object], end_s: float) -> None:
        self.task = task
        self.end_s = end_s
        self.has_expired = False
        self._cancelling = task.cancelling()

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

    def __repr__(self) -> str:
        return f"<Deadlines watched={len(self._watched)}>"

    def begin(self, limit_s: float) -> Watch:
        """Watch the current task: it is cancelled in `limit_s` seconds unless `end` is called before."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        watch = Watch(task, loop.time() + limit_s)
        self._watched.add(watch)
        if self._timer is None:
            self._timer = loop.call_later(min(limit_s, RESOLUTION_S), self._sweep, loop)
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
            self._timer = loop.call_later(max(0.001, min(nearest_s, RESOLUTION_S)), self._sweep, loop)
