"""Runs warm-ups: the critical ones before readiness, within a bound; the others one at a time, with rests, when none minds.

A warm-up is work that may be left out: what waits too long, comes to a full queue or fails is counted and forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from b1.cache.l1.table import L1
from b1.cache.warming.conditions import Conditions, pause_s
from b1.cache.warming.declared import Warmups
from b1.cache.warming.gains import Gains
from b1.cache.warming.jobs import Job, Jobs
from b1.cache.warming.learnt import Learnt
from b1.cache.warming.looking import look
from b1.cache.warming.options import WarmingOptions, WarmingSnapshot
from b1.cache.warming.planning import Answers, Planning
from b1.cache.warming.subjects import AnswerSubject, NotWarmed
from b1.cache.warming.users import Users
from b1.clock import DEADLINE, Clock
from b1.types import Principal

log = logging.getLogger("b1.cache")


class Warming:
    """Owns the tasks. Guarded by the loop.

    Args:
        warmups: what the application declared.
        conditions: under which it waits.
        background: entered around each warm-up: what it asks of the database is background work.
        answers: makes answers; None: there is no response cache.
        enabled: False does nothing and costs nothing.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        warmups: Warmups,
        l1: L1,
        clock: Clock,
        *,
        conditions: Conditions | None = None,
        background: Callable[[], AbstractContextManager[object]] = nullcontext,
        answers: Answers | None = None,
        options: WarmingOptions | None = None,
        enabled: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.answers = answers
        self.enabled = enabled
        self._warmups = warmups
        self._l1 = l1
        self._clock = clock
        self._conditions = conditions or Conditions()
        self._background = background
        self._options = options = options or WarmingOptions()
        self._sleep = sleep
        self._jobs = Jobs(options.queue)
        self._gains = Gains(lambda name: look(l1, name), options.followed)
        self.learnt = Learnt(l1, clock, warmups.loads, options)
        self._users = Users(l1, clock, options)
        self._planning = Planning(warmups, self.learnt, self._users, l1, clock, lambda: self.answers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_started = self._is_stopped = self._is_running = False
        self._held_by = ""
        self._epoch = l1.versions_of(()).vector  # another one: everything was invalidated, by whomever
        self._is_emptied = False
        self._rewarmed_s = float("-inf")
        self._cost_ms: dict[str, float] = {}
        self._warmed: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._holds: Counter[str] = Counter()
        self._failed = self._rewarms = 0
        self._start_wait_ms: float | None = None

    def __repr__(self) -> str:
        return f"<Warming {self.state} {self._jobs!r} {self._gains!r}>"

    @property
    def state(self) -> str:
        """One word; see `WarmingSnapshot`."""
        if not self.enabled:
            return "off"
        if self._is_stopped:
            return "stopped"
        if self._held_by:
            return "held"
        return "warming" if self._is_running or self._jobs else "idle"

    # Beginning and end

    async def start(self, *, is_alone: bool = True) -> None:
        """Run the critical warm-ups, for `start_wait_s` at most; what is left then goes on behind, in its turn.

        Args:
            is_alone: no predecessor serves beside this process: the critical ones need not give way to anybody.
        """
        if not self.enabled or self._is_started or self._is_stopped:
            return
        self._is_started = True
        self._epoch = self._l1.versions_of(()).vector  # the first connection to Redis changed it, and emptied nothing
        began_s = self._clock.monotonic()
        waiting = deque(self._planning.criticals())
        if waiting and not self._conditions.reason():
            drains = [
                self._own(self._drain(waiting, is_alone=is_alone), "b1-warm-critical")
                for _ in range(min(len(waiting), self._options.at_start))
            ]
            await asyncio.wait(drains, timeout=self._options.start_wait_s)
        left = list(waiting)
        waiting.clear()  # the drains end with what they have begun
        for job in left:
            self._put(job)
        self._start_wait_ms = (self._clock.monotonic() - began_s) * 1000
        if not self._is_stopped:
            self._own(self._work(), "b1-warm")
            self._own(self._watch(), "b1-warm-watch")

    def stop(self) -> None:
        """End at once: the process drains. `aclose` waits for it."""
        self._is_stopped = True
        if left := self._jobs.clear():
            self._skipped["stopped"] += left
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """End, and wait for the end of what runs."""
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._held_by = ""

    # What there is to do

    def met(self, principal: Principal) -> None:
        """Hear that a user has appeared: a login, or the first token. Cheap, and never raises for what is full."""
        if not self.enabled or self._is_stopped:
            return
        for job in self._planning.for_user(principal):
            self._put(job)

    def rewarm(self, *, now: bool = False) -> int:
        """Queue what is read most and is not here; return how many. The watch does it when everything was invalidated.

        Args:
            now: also when that was done less than `rewarm_every_s` ago.
        """
        now_s = self._clock.monotonic()
        if not self.enabled or self._is_stopped:
            return 0
        if not now and now_s - self._rewarmed_s < self._options.rewarm_every_s:
            return 0
        jobs = self._planning.most_read()
        if jobs:
            self._rewarmed_s = now_s
            self._rewarms += 1
        for job in jobs:
            self._put(job)
        return len(jobs)

    def export(self) -> bytes:
        """Return what use has taught, for a successor; empty: nothing."""
        if not self.enabled:
            return b""
        self.learnt.sweep()  # what was read since the last look counts too
        return self.learnt.export()

    def absorb(self, data: bytes | None) -> int:
        """Go on from what a predecessor's use has taught, and queue it; return how much that was."""
        if not data or not self.enabled:
            return 0
        taken = self.learnt.absorb(data)
        self.rewarm(now=True)
        return taken

    def saw(self, name: str, subject: AnswerSubject) -> None:
        """Hear that an answer is made because somebody wants it."""
        if self.enabled and not self._is_stopped:
            self.learnt.saw(name, subject)

    def sweep(self) -> None:
        """Look at what became of warmed entries, and what is read; queue what is due. The watch does it regularly.

        What is due: repeated warm-ups, and after an invalidation of everything all that was declared or is read most.
        """
        now_s = self._clock.monotonic()
        self._gains.sweep(now_s)
        epoch = self._l1.versions_of(()).vector
        self._is_emptied |= self.learnt.sweep() or epoch != self._epoch
        self._epoch = epoch
        if self._is_emptied:
            self._rewarm_all(now_s)
        for job in self._planning.criticals(only_due=True):
            self._put(job)

    def _rewarm_all(self, now_s: float) -> None:
        """Queue what was declared and what is read most, unless that was done a moment ago: then at a later look."""
        if now_s - self._rewarmed_s < self._options.rewarm_every_s or not self.enabled or self._is_stopped:
            return
        self._is_emptied = False
        self._rewarmed_s = now_s
        declared = self._planning.after_emptying()
        for job in declared:
            self._put(job)
        learnt = self.rewarm(now=True)
        self._rewarms += bool(declared) and not learnt
        log.info("the cache was emptied", extra={"rewarmed": len(declared) + learnt})

    def snapshot(self) -> WarmingSnapshot:
        """Return numbers; no I/O."""
        gains = self._gains
        return WarmingSnapshot(
            state=self.state,
            held_by=self._held_by,
            queued=len(self._jobs),
            warmed=dict(self._warmed),
            failed=self._failed,
            skipped=dict(self._skipped),
            holds=dict(self._holds),
            cost_ms=dict(self._cost_ms),
            followed=len(gains),
            used=gains.used,
            wasted=gains.wasted,
            unmeasured=gains.unmeasured,
            saved_ms=gains.saved_ms,
            tracked=len(self.learnt),
            users=len(self._users),
            rewarmed=self._rewarms,
            start_wait_ms=self._start_wait_ms,
        )

    # The tasks

    def _put(self, job: Job) -> None:
        if self._is_stopped:
            self._skipped["stopped"] += 1
        elif self._jobs.put(job) is not None:
            self._skipped["full"] += 1

    async def _drain(self, waiting: deque[Job], *, is_alone: bool) -> None:
        DEADLINE.set(None)
        while waiting:
            await self._do(waiting.popleft(), nullcontext if is_alone else self._background)

    async def _work(self) -> None:
        DEADLINE.set(None)
        while True:
            job = await self._jobs.get()
            self._is_running = True
            try:
                if await self._is_welcome(job):
                    took_s = await self._do(job, self._background)
                    await self._sleep(pause_s(took_s, self._options))
            finally:
                self._is_running = False

    async def _watch(self) -> None:
        DEADLINE.set(None)
        while True:
            await self._sleep(self._options.sweep_s)
            self.sweep()

    async def _is_welcome(self, job: Job) -> bool:
        """Wait while nothing may be warmed; False: that took too long."""
        try:
            while reason := self._conditions.reason():
                if self._held_by != reason:
                    self._held_by = reason
                    self._holds[reason] += 1
                if self._clock.monotonic() - job.since_s >= self._options.held_s:
                    self._skipped[reason] += 1
                    return False
                await self._sleep(self._options.look_s)
            return True
        finally:
            self._held_by = ""

    async def _do(self, job: Job, around: Callable[[], AbstractContextManager[object]]) -> float:
        """Run a warm-up; return how long it took, in seconds."""
        names: tuple[str, ...] = ()
        began_s = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._options.load_s):
                with around():
                    names = await job.run()
            self._warmed[job.kind] += 1
        except NotWarmed as nothing:
            self._skipped[nothing.reason] += 1
        except Exception as error:  # noqa: BLE001 - whatever a load raises: the first reader will see it
            self._failed += 1
            log.info("a warm-up failed", extra={"kind": job.kind, "cause": type(error).__name__})
        took_s = self._clock.monotonic() - began_s
        self._cost_ms[job.kind] = self._cost_ms.get(job.kind, 0.0) + took_s * 1000
        self._gains.follow(names, took_s * 1000)
        return took_s

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("warming ended", exc_info=error, extra={"work": task.get_name()})
