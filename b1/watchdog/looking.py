"""One look at the loop's thread, from another thread: which callback runs, where it is, and for which request."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from contextvars import Context
from types import FrameType

from b1.watchdog.causes import Look, Running
from b1.watchdog.frames import frames_of, lines_of
from b1.watchdog.heartbeat import Heartbeat, Turn
from b1.watchdog.thread_state import read_thread

# From the context of the task that runs to the request it serves; None outside of requests.
Identify = Callable[[Context], Running | None]


class Looker:
    """Looks during one stall; callbacks are numbered in the order in which they are seen.

    Everything it touches is handed to the loop's thread, which alone may let go of it (see `Heartbeat.to_release`).
    """

    def __init__(self, heart: Heartbeat, loop: asyncio.AbstractEventLoop, identify: Identify) -> None:
        self._heart = heart
        self._loop = loop
        self._identify = identify
        self._held: list[list[object]] = []  # per callback; its first frame comes first

    def look(self, turn: Turn, at_s: float, late_s: float) -> Look | None:
        """Return what the loop's thread does now, or None when the loop has turned since `turn`.

        After native code has given the interpreter back, the loop stands still only until this thread lets go of it for
        the first time. So the stack comes first, and what reads a file comes last.
        """
        held: list[object] = []
        try:
            held += frames_of(sys._current_frames().get(self._heart.thread_id))
            if self._heart.turn is not turn:
                return None
            running = self._running(held)
            frames = [frame for frame in held if isinstance(frame, FrameType)]
            own = frames[: max(0, len(frames) - self._heart.depth + 1)]
            lines = lines_of(own)
            callback = self._number(own[-1], held) if own else None
            del frames, own
        finally:
            self._heart.to_release.append(held)
        return Look(at_s, late_s, callback, lines, running, read_thread(self._heart.native_id))

    def _number(self, first: FrameType, held: list[object]) -> int:
        """Return which callback this is. Frames are alike only while the first look's frame is still held."""
        held.insert(0, first)
        for number, seen in enumerate(self._held):
            if seen[:1] == [first]:
                return number
        self._held.append(held)
        return len(self._held) - 1

    def _running(self, held: list[object]) -> Running | None:
        task = asyncio.current_task(self._loop)
        if task is None:
            return None
        held.append(task)
        context = _context_of(task)
        if context is None:
            return None
        held.append(context)
        return self._identify(context)


def _context_of(task: asyncio.Task[object]) -> Context | None:
    """Return the task's context. Python 3.11 has no name for it, but its collector knows it."""
    if sys.version_info >= (3, 12):
        return task.get_context()
    return next((found for found in gc.get_referents(task) if isinstance(found, Context)), None)
