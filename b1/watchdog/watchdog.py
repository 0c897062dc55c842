"""The watchdog: measures the loop's lag, and names the line that blocked it.

Its thread sleeps until shortly before the next heartbeat would be too late, so that an idle process wakes it ten times a
second instead of fifty; only while a heartbeat is missing does it look every 20 ms, later every 100 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass

from b1.clock import Clock
from b1.watchdog.causes import Look, Running
from b1.watchdog.dump import Dumps
from b1.watchdog.frames import blamed
from b1.watchdog.heartbeat import Heartbeat, Stall, Turn
from b1.watchdog.judging import Floor, judge
from b1.watchdog.lag import LagSnapshot
from b1.watchdog.looking import Identify, Looker
from b1.watchdog.options import WatchdogOptions
from b1.watchdog.reports import Report, Reports

log = logging.getLogger("b1.watchdog")

# The first look comes shortly before the threshold and the second at it, so that every stall was seen twice: what is seen
# once may be one of many short callbacks.
FIRST_LOOK = 0.8
FIRST_LOOKS = 4
FIRST_LOOKS_EVERY_S = 0.02
LOOKS_EVERY_S = 0.1
LOOKS_KEPT = 40

# The thread wakes at once when it is told to end; a log handler that blocks is the one thing that can hold it.
END_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class WatchdogSnapshot:
    """The state of the loop.

    Attributes:
        lag, lag_minute: quantiles over ten and sixty seconds.
        utilisation: share of the last ten seconds in which the loop's thread computed.
        stalls: (cause, stalls, seconds in them) for every cause.
        reports: newest first. Stacks, routes and request ids: only for those who hold the token.
        silenced: new reports that were not logged, because too many came in a minute.
        is_watching: the thread is alive.
        is_dumping: calls that hold the interpreter are dumped.
    """

    lag: LagSnapshot
    lag_minute: LagSnapshot
    is_lagging: bool
    utilisation: float
    stalls: tuple[tuple[str, int, float], ...]
    reports: tuple[Report, ...]
    silenced: int
    is_watching: bool
    is_dumping: bool


def _nobody(context: Context) -> Running | None:
    return None


class Watchdog:
    """Owns the heartbeat, the thread, and the reports.

    Guardian: the loop's thread starts, stops and reads; the watchdog's thread alone writes the reports.

    Args:
        identify: from the context of the running task to the request it serves.
        cores: that this process may use.
    """

    def __init__(
        self,
        clock: Clock,
        options: WatchdogOptions | None = None,
        *,
        identify: Identify = _nobody,
        cores: int = 1,
    ) -> None:
        self._clock = clock
        self._options = options or WatchdogOptions()
        self._identify = identify
        self._dumps = Dumps(after_s=self._options.dump_after_s, cores=cores)
        self._heart = Heartbeat(clock, self._options, on_beat=self._dumps.arm)
        self._reports = Reports(kept=self._options.reports_kept, per_minute=self._options.reports_per_minute)
        self._thread: threading.Thread | None = None
        self._first_look_s = self._options.stall_s * FIRST_LOOK
        self._keep_on = threading.Lock()  # held while the thread shall go on; its release wakes it
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Watchdog lagging={self.is_lagging()} {self._reports!r}>"

    def is_lagging(self) -> bool:
        """Say whether the loop lags so much that less work should be admitted; costs nothing."""
        return self._heart.lag.is_lagging

    def start(self) -> None:
        """Begin to watch the running loop."""
        if self._thread is not None:
            return
        loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._keep_on.acquire(blocking=False)
        if self._options.dumps:
            self._dumps.open()
        self._heart.start()
        self._thread = threading.Thread(target=self._run, name="b1-watchdog", args=(loop, self._ended), daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Stop; returns when the thread has ended."""
        if self._thread is None:
            return
        self._keep_on.release()
        try:
            async with asyncio.timeout(END_LIMIT_S):
                await self._ended.wait()
        except TimeoutError:
            log.warning("the watchdog's thread did not end and is left behind")
        self._heart.stop()
        self._dumps.close()
        self._thread = None

    def snapshot(self) -> WatchdogSnapshot:
        """Return the state; call it on the loop's thread."""
        lag, overdue_s = self._heart.lag, self._heart.overdue_s()
        return WatchdogSnapshot(
            lag=lag.short(overdue_s),
            lag_minute=lag.long(overdue_s),
            is_lagging=lag.is_lagging,
            utilisation=self._heart.share(),
            stalls=self._reports.counts(),
            reports=self._reports.newest_first(),
            silenced=self._reports.silenced,
            is_watching=self._thread is not None and self._thread.is_alive(),
            is_dumping=self._dumps.is_open,
        )

    def _run(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        try:
            while not self._sleep_until(self._heart.turn.due_s + self._first_look_s):
                turn = self._heart.turn
                if self._clock.monotonic() >= turn.due_s + self._first_look_s and self._watch(turn, loop):
                    break
                self._end(None, ())
        except Exception:
            log.exception("the watchdog failed and has ended")
        finally:
            self._dumps.pause()  # without looks, frames could move while a dump is written
            with contextlib.suppress(RuntimeError):  # the loop was closed without `aclose`
                loop.call_soon_threadsafe(ended.set)

    def _sleep_until(self, moment_s: float) -> bool:
        """Return at that moment, or with True as soon as the thread shall end."""
        return self._keep_on.acquire(timeout=max(0.0, moment_s - self._clock.monotonic()))

    def _watch(self, turn: Turn, loop: asyncio.AbstractEventLoop) -> bool:
        """Look until the loop turns again, then judge; return True when the thread shall end."""
        looker = Looker(self._heart, loop, self._identify)
        looks: list[Look] = []
        planned_s = turn.due_s + self._first_look_s
        is_announced = False
        while self._heart.turn is turn:
            now_s = self._clock.monotonic()
            if len(looks) < LOOKS_KEPT:
                look = looker.look(turn, now_s, max(0.0, now_s - planned_s))
                if look is None:
                    break
                looks.append(look)
            self._dumps.arm()
            if now_s - turn.due_s >= self._options.announce_s and not is_announced:
                is_announced = True
                self._announce(looks, now_s - turn.due_s)
            planned_s = now_s + (FIRST_LOOKS_EVERY_S if len(looks) < FIRST_LOOKS else LOOKS_EVERY_S)
            if self._sleep_until(planned_s):
                return True
        self._end(turn, looks)
        return False

    def _end(self, turn: Turn | None, looks: Sequence[Look]) -> None:
        """Judge the stalls that have ended; `looks` belong to the one that began after `turn`."""
        while self._heart.stalls:
            stall = self._heart.stalls.popleft()
            self._judge(stall, looks if stall.before is turn else ())
        self._dumps.take()  # what is still there belongs to no stall: threads that compute outside of the interpreter

    def _judge(self, stall: Stall, looks: Sequence[Look]) -> None:
        finding = judge(
            stall,
            looks,
            self._dumps.take(),
            Floor(self._heart.below, self._heart.depth),
            wall_s=self._clock.wall(),
            stall_s=self._options.stall_s,
            stack_lines=self._options.stack_lines,
        )
        report, is_worth_a_line = self._reports.add(finding)
        if is_worth_a_line:
            self._quietly(lambda: _log(report))

    def _announce(self, looks: Sequence[Look], lasted_s: float) -> None:
        line = blamed(looks[-1].lines)
        fields = _fields(str(line) if line else None, looks[-1].running, lasted_s)
        self._quietly(lambda: log.warning("the event loop is blocked and still does not turn", extra=fields))

    def _quietly(self, write: Callable[[], None]) -> None:
        """Write to the log, which may block, while no dump can be taken."""
        self._dumps.pause()
        try:
            write()
        finally:
            self._dumps.resume()


def _log(report: Report) -> None:
    running = Running(report.route, report.request_id) if report.route and report.request_id else None
    where = f"{report.where} {report.function}" if report.where else None
    level = logging.WARNING if where else logging.INFO
    log.log(
        level, "the event loop was blocked", extra={"cause": report.cause, **_fields(where, running, report.worst_s)}
    )


def _fields(where: str | None, running: Running | None, lasted_s: float) -> dict[str, object]:
    fields: dict[str, object] = {"at": where, "duration_s": round(lasted_s, 3)}
    if running is not None:
        fields |= {"route": running.route, "requestId": running.request_id}
    return fields
