"""The part of the watchdog that runs on the loop: one timer that says when it was due, when it came, and what the CPU
clocks said then.

It also keeps what the watchdog's thread has looked at until the loop's own thread lets go of it: a frame's variables may
only be destroyed where they were made.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from b1.clock import Clock
from b1.watchdog.frames import depth_of, frames_of
from b1.watchdog.lag import LagWindow, Utilisation
from b1.watchdog.options import WatchdogOptions

# Stalls that end before the watchdog's thread has dealt with the one before are few; more are only counted as lag.
UNREAD_STALLS = 8


class Turn(NamedTuple):
    """What the clocks said when the loop turned. Seconds.

    Attributes:
        at_s: monotonic.
        due_s: when the next heartbeat should come.
        cpu_s: CPU time of the loop's thread.
        process_s: CPU time of all threads.
        collecting_s: CPU time of garbage collections.
    """

    at_s: float
    due_s: float
    cpu_s: float
    process_s: float
    collecting_s: float


class Stall(NamedTuple):
    """Two turns with too much time between them."""

    before: Turn
    after: Turn

    @property
    def lag_s(self) -> float:
        """How late the heartbeat came: what blocked the loop took at least this long."""
        return self.after.at_s - self.before.due_s


class Heartbeat:
    """Beats on the running loop.

    Guardian: written by the loop's thread alone. The watchdog's thread reads `turn` (one reference, replaced whole),
    takes from `stalls` and adds to `to_release`.

    Args:
        on_beat: called at each beat.
    """

    def __init__(self, clock: Clock, options: WatchdogOptions, *, on_beat: Callable[[], None]) -> None:
        self._clock = clock
        self._options = options
        self._on_beat = on_beat
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._collecting_s = 0.0
        self._collection_began_s: float | None = None
        self.lag = LagWindow(interval_s=options.interval_s, lagging_s=options.lagging_s)
        self.utilisation = Utilisation()
        self.turn = Turn(0.0, 0.0, 0.0, 0.0, 0.0)
        self.stalls: deque[Stall] = deque(maxlen=UNREAD_STALLS)
        self.to_release: deque[list[object]] = deque()
        self.thread_id = 0
        self.native_id = 0
        self.below: tuple[str, ...] = ()  # the files of the frames below every callback, innermost first
        self.depth = 0  # of a callback's first frame, counted from the thread's first

    def start(self) -> None:
        """Begin to beat on the running loop; the first beat comes at once."""
        self.thread_id, self.native_id = threading.get_ident(), threading.get_native_id()
        gc.callbacks.append(self._on_collection)
        self.turn = self._now()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(0.0, self._beat)

    def stop(self) -> None:
        """Stop beating, and let go of what was looked at."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.callbacks.remove(self._on_collection)
        self._release()

    def overdue_s(self) -> float:
        """Return how late the next heartbeat is by now; 0 when it is not."""
        return max(0.0, self._clock.monotonic() - self.turn.due_s) if self._timer is not None else 0.0

    def share(self) -> float:
        """Return the loop's utilisation; only on its own thread."""
        return self.utilisation.share(self._clock.monotonic(), time.thread_time())

    def _beat(self) -> None:
        self._see_floor(sys._getframe())
        before, after = self.turn, self._now()
        lag_s = max(0.0, after.at_s - before.due_s)
        self.lag.record(lag_s)
        self.utilisation.record(after.at_s, after.cpu_s)
        if lag_s > self._options.stall_s:
            self.stalls.append(Stall(before, after))
        if self.to_release:
            self._release()
        self.turn = after
        self._on_beat()
        self._timer = self._loop.call_later(self._options.interval_s, self._beat)

    def _see_floor(self, beat: FrameType) -> None:
        """Note where callbacks begin on this thread's stack: a beat is one. It changes when a loop is run anew."""
        depth = depth_of(beat)
        if depth != self.depth:
            self.depth = depth
            self.below = tuple(frame.f_code.co_filename for frame in frames_of(beat.f_back))

    def _now(self) -> Turn:
        now_s = self._clock.monotonic()
        due_s = now_s + self._options.interval_s
        return Turn(now_s, due_s, time.thread_time(), time.process_time(), self._collecting_s)

    def _release(self) -> None:
        while self.to_release:
            self.to_release.popleft().clear()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Add up the CPU time of garbage collections, whichever thread they run in: all of them stop the loop."""
        if phase == "start":
            self._collection_began_s = time.thread_time()
        elif self._collection_began_s is not None:
            self._collecting_s += time.thread_time() - self._collection_began_s
            self._collection_began_s = None
