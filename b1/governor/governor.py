"""Samples memory, knows the level, and acts on it: evict, collect, trim; say so; write down what holds the memory.

Two tasks: one samples, the other acts, so that a level which rises during a long reclaim is noticed at once. Every read of
a file and every slow call runs in one thread of the governor's own: the shared ones may be full when memory is short.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from b1.clock import Clock
from b1.governor import holdings, memory
from b1.governor.ballast import BALLAST_BYTES, Ballast
from b1.governor.collection import Collector
from b1.governor.inject import Injection
from b1.governor.ladder import Ladder
from b1.governor.limit import RESERVE_BYTES
from b1.governor.meter import MemoryMeter, Meter, Reading
from b1.governor.reclaim import Reclaimed, Reclaimer
from b1.governor.snapshot import GovernorSnapshot
from b1.governor.watermark import Level
from b1.governor.witness import Witness
from b1.host import MemoryLimit
from b1.types import Reclaimable

log = logging.getLogger("b1.governor")

R = TypeVar("R")
LevelCallback = Callable[[Level, Level, GovernorSnapshot], None]
Callback = Callable[[GovernorSnapshot], None]


@dataclass(frozen=True, slots=True)
class GovernorOptions:
    """How the governor behaves.

    Attributes:
        limit_source: where the configured limit comes from, in words.
        reserve_bytes: what has to stay free on the host.
        ballast_bytes: memory given up at the emergency level; 0 keeps none.
        pressed_interval_s: time between samples from the elevated level on: a leak may be fast.
        full_collection_s: a full collection is done while its predicted pause is shorter than this.
        reports_dir: where reports of what holds the memory go; None writes none.
        reports_apart_s: reports that the critical level causes are at least this far apart.
        injection_file: staging only: a file with a ratio that replaces the measured one. None, as in production, never
            looks for one.
        trace_window_s: allocations are traced for this long from the elevated level on; 0 never traces.
    """

    limit_source: str = "configured"
    reserve_bytes: int = RESERVE_BYTES
    ballast_bytes: int = BALLAST_BYTES
    full_collection_s: float = 0.1
    pressed_interval_s: float = 0.1
    reports_dir: Path | None = None
    reports_apart_s: float = 300.0
    injection_file: Path | None = None
    trace_window_s: float = 0.0


class Governor:
    """One per worker.

    Args:
        limit_bytes: the configured limit; the effective one may be less and changes while we run.
        marks: per cent of the limit at which each level begins, by the level's lower-case name.
        interval_s: time between samples.
        meter: what is read; tests have their own.
        large_requests: returns recent large requests for the report, called on the loop.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        limit_bytes: int,
        marks: Mapping[str, int],
        interval_s: float,
        options: GovernorOptions | None = None,
        meter: Meter | None = None,
        large_requests: holdings.Requests | None = None,
    ) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._options = options = options or GovernorOptions()
        self._meter = meter or _meter(limit_bytes, options)
        self._reading = Reading(0, "processes", limit_bytes, options.limit_source)
        self._ladder = Ladder(marks)
        self._collector = Collector(clock, pause_limit_s=options.full_collection_s)
        self._reclaimer = Reclaimer(
            clock,
            self._collector,
            read_used=self._meter.used_bytes,
            off_loop=self._off_loop,
            trim=memory.trimmer(),
        )
        self._ballast = Ballast(options.ballast_bytes)
        self._witness = Witness(
            clock,
            options.reports_dir,
            apart_s=options.reports_apart_s,
            off_loop=self._off_loop,
            requests=large_requests,
        )
        self._level_callbacks: list[LevelCallback] = []
        self._irreclaimable_callbacks: list[Callback] = []
        self._is_exact_wanted = False
        self._is_clean_up_wanted = False
        self._reclaiming = asyncio.Lock()
        self._last_reclaim: Reclaimed | None = None
        self._reclaims = 0
        self._returned: Counter[str] = Counter()
        self._longest_slice_s = 0.0
        self._due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"<Governor {self.level.name.lower()} used_bytes={self._reading.used_bytes}>"

    @property
    def level(self) -> Level:
        """The present level; read on the request path."""
        return self._ladder.level

    def register(self, reclaimable: Reclaimable) -> None:
        """Let the governor take memory from it; lower priorities are emptied first."""
        self._reclaimer.register(reclaimable)

    def on_level(self, callback: LevelCallback) -> None:
        """Call `callback(previous, level, snapshot)` on the loop whenever the level changes, before anything is reclaimed.

        It must not block. An exception is logged and keeps nobody else from being called.
        """
        self._level_callbacks.append(callback)

    def on_irreclaimable(self, callback: Callback) -> None:
        """Call `callback(snapshot)` once when, at severe or above, a reclaim returned next to nothing."""
        self._irreclaimable_callbacks.append(callback)

    def start(self) -> None:
        """Begin to sample; the ballast is taken now."""
        used = memory.used_bytes()
        self._reading = Reading(used, "processes", self._reading.limit_bytes, self._reading.limit_source)
        self._ballast.take()
        self._collector.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._watch(), name="b1-governor-watch"),
            loop.create_task(self._work(), name="b1-governor-work"),
        ]
        for task in self._tasks:
            task.add_done_callback(_report_death)

    async def aclose(self) -> None:
        """Stop sampling and acting; give up the ballast and the thread."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._collector.stop()
        self._witness.close()
        self._ballast.release()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def snapshot(self) -> GovernorSnapshot:
        """Return the last sample and what was done; no I/O."""
        reading, ladder = self._reading, self._ladder
        return GovernorSnapshot(
            used_bytes=reading.used_bytes,
            limit_bytes=reading.limit_bytes,
            level=ladder.level.name.lower(),
            level_number=int(ladder.level),
            reclaims=self._reclaims,
            reclaimed_bytes=self._returned.total(),
            limit_source=reading.limit_source,
            used_source=reading.used_source,
            swapped_bytes=reading.swapped_bytes,
            slope_bytes_per_s=ladder.slope_bytes_per_s,
            time_to_limit_s=ladder.time_to_limit_s,
            promoted_by=ladder.promoted_by,
            stall_some=reading.stall.some_avg10,
            stall_full=reading.stall.full_avg10,
            swap_in_pages_per_s=reading.stall.swap_in_pages_per_s,
            is_injected=reading.is_injected,
            is_irreclaimable=ladder.is_irreclaimable,
            last_reclaim=self._last_reclaim,
            returned_by_step=tuple(self._returned.items()),
            longest_slice_s=self._longest_slice_s,
            held=self._reclaimer.held(),
            ballast_bytes=self._ballast.held_bytes,
            report=self._witness.last.name if self._witness.last is not None else None,
            report_path=str(self._witness.path) if self._witness.path is not None else None,
        )

    async def sample(self) -> Level:
        """Take one sample, tell who wants to know of a new level, and note what is due; `act` does it."""
        now_s = self._clock.monotonic()
        exactly, self._is_exact_wanted = self._is_exact_wanted, False
        self._reading = await self._off_loop(partial(self._meter.read, now_s, exactly=exactly))
        previous = self.level
        level = self._ladder.take(self._reading, now_s)
        if level is not previous:
            self._changed(previous, level)
        if self._ladder.is_due(now_s) or self._witness.is_due():
            self._due.set()
        return level

    async def act(self) -> None:
        """Do what is due at the present level; nothing when it was done already."""
        self._due.clear()
        level, now_s = self.level, self._clock.monotonic()
        if level is Level.EMERGENCY:
            self._ballast.release()
        elif level <= Level.ELEVATED and self._tasks:
            self._ballast.take()
        if level is Level.ELEVATED and self._options.trace_window_s:
            self.trace(self._options.trace_window_s)
        held = self._reclaimer.held()  # as it was when the alarm went, not after everything was given up
        if self._ladder.is_due(now_s) or self._is_clean_up_wanted:
            await self._climb()
        if self._witness.is_due():
            await self._witness.write(replace(self.snapshot(), held=held))

    async def reclaim(self, share: float = 0.5) -> Reclaimed:
        """Evict `share` (0 to 1) of what is reclaimable, collect, and give freed pages back; return what really left."""
        return await self._reclaim(share, "asked")

    def clean_up(self) -> None:
        """Give up everything reclaimable, soon and once: the step that is due takes all of it, in the governor's task.

        For the critical alert's handler. It returns at once; called again before the step is taken it changes nothing.
        """
        self._is_clean_up_wanted = True
        self._due.set()

    def trace(self, window_s: float) -> bool:
        """Trace allocations for `window_s`; the lines are in the report that its end writes. False if a trace runs."""
        return self._witness.trace(window_s)

    async def write_report(self) -> Path | None:
        """Write down what holds the memory; return the file, or None where reports are off or cannot be written."""
        return await self._witness.write(self.snapshot())

    async def _climb(self) -> None:
        """Reclaim because of the level, and judge what came of it."""
        reading, share = self._reading, self._ladder.begin()
        if self._is_clean_up_wanted:
            self._is_clean_up_wanted, share = False, 1.0
        reclaimed = await self._reclaim(share, self.level.name.lower())
        if self._ladder.finish(reclaimed, reading, self._clock.monotonic()):
            log.error("memory cannot be reclaimed", extra={"returnedBytes": reclaimed.returned_bytes})
            snapshot = self.snapshot()
            for callback in self._irreclaimable_callbacks:
                _call(partial(callback, snapshot))

    async def _reclaim(self, share: float, level: str) -> Reclaimed:
        async with self._reclaiming:
            reclaimed = await self._reclaimer.reclaim(share, level=level)
        self._reclaims += 1
        self._last_reclaim = reclaimed
        self._longest_slice_s = max(self._longest_slice_s, reclaimed.longest_slice_s)
        for step in reclaimed.steps:
            self._returned[step.name] += step.returned_bytes
        yields = {f"{step.name}Bytes": step.returned_bytes for step in reclaimed.steps}
        log.warning("memory reclaimed", extra={"level": level, "evictedBytes": reclaimed.evicted_bytes, **yields})
        return reclaimed

    def _changed(self, previous: Level, level: Level) -> None:
        self._is_exact_wanted = True
        self._due.set()
        if previous < Level.CRITICAL <= level:
            self._witness.want()
        snapshot = self.snapshot()
        log.log(
            logging.WARNING if level > previous else logging.INFO,
            "memory level changed",
            extra={
                "level": snapshot.level,
                "usedBytes": snapshot.used_bytes,
                "limitBytes": snapshot.limit_bytes,
                "limitSource": snapshot.limit_source,
                "promotedBy": snapshot.promoted_by,
            },
        )
        for callback in self._level_callbacks:
            _call(partial(callback, previous, level, snapshot))

    def _off_loop(self, call: Callable[[], R]) -> Awaitable[R]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "b1-governor")
        return asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _watch(self) -> None:
        while True:
            await self.sample()
            is_pressed = self.level >= Level.ELEVATED
            await asyncio.sleep(
                min(self._interval_s, self._options.pressed_interval_s) if is_pressed else self._interval_s
            )

    async def _work(self) -> None:
        await self._witness.check()
        while True:
            await self._due.wait()
            await self.act()


def _meter(limit_bytes: int, options: GovernorOptions) -> MemoryMeter:
    injection = Injection(options.injection_file) if options.injection_file is not None else None
    configured = MemoryLimit(limit_bytes, options.limit_source)
    return MemoryMeter(configured, reserve_bytes=options.reserve_bytes, injection=injection)


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # one listener's mistake must not stop the ladder
        log.exception("a listener of the governor failed")


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the governor has stopped", exc_info=error)
