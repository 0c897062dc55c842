"""Runs warm-ups: the critical ones before readiness, within a bound; all others one at a time, with rests, when nobody minds.

A warm-up is work that may be left out: what waits too long, comes to a full queue or fails is counted and forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from b1.cache.l1 import L1
from b1.cache.warming.conditions import Conditions, pause_s
from b1.cache.warming.declared import Critical, ForPrincipal, PublicPath, Warmups, entry_names
from b1.cache.warming.gains import Gains
from b1.cache.warming.jobs import Job, Jobs, Kind, Run
from b1.cache.warming.learnt import Learnt
from b1.cache.warming.looking import look
from b1.cache.warming.options import WarmingOptions, WarmingSnapshot
from b1.cache.warming.subjects import AnswerSubject, KeySubject, NotWarmed, Subject
from b1.clock import DEADLINE, Clock
from b1.types import Principal, Versions

log = logging.getLogger("b1.cache")

# What cannot be warmed now will not be next time either.
_HOPELESS = frozenset({"route", "unkept", "forbidden"})


class Answers(Protocol):
    """Makes stored answers without a client (`b1.asgi.caching.warming`)."""

    def subject(self, path: str, principal: Principal | None) -> AnswerSubject:
        """Return the request for a declared path."""
        ...

    async def warm(self, subject: AnswerSubject) -> str:
        """Make an answer, and return its name in L1.

        Raises:
            NotWarmed: there was nothing to do, or it must not be done.
        """
        ...


class _User(NamedTuple):
    principal: Principal
    met_s: float  # wall
    versions: Versions
    warmed_s: dict[str, float]  # by declaration, monotonic


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
        self._users: OrderedDict[tuple[str, str | None], _User] = OrderedDict()
        self._due_s: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_started = self._is_stopped = self._is_running = False
        self._held_by = ""
        self._rewarmed_s = float("-inf")
        self._warmed: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._holds: Counter[str] = Counter()
        self._cost_ms: Counter[str] = Counter()
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
        began_s = self._clock.monotonic()
        waiting = deque(sorted(self._criticals(), key=lambda job: job.rank))
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
        self._skipped["stopped"] += self._jobs.clear()
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
        known = self._users.pop(key := (principal.actor, principal.organization), None)
        # The tag under which `b1.identity` forgets an actor.
        versions = self._l1.versions_of((f"actor:{principal.actor}",))
        warmed_s = {} if known is None else known.warmed_s
        self._users[key] = user = _User(principal, self._clock.wall(), versions, warmed_s)
        if len(self._users) > self._options.users:
            self._users.popitem(last=False)
        now_s = self._clock.monotonic()
        for one in self._warmups.principals.values():
            if self._is_due(user, one.name, one.every_s, now_s):
                self._put(self._job_for(one, user))
        if len(self.learnt) and self._is_due(user, "", None, now_s):
            for name, subject, count in self.learnt.of(*key):
                self._put(self._job_of(name, subject, count, "principal"))

    def rewarm(self, *, now: bool = False) -> int:
        """Queue what is read most and is not here: after a start, or when everything was invalidated. Return how many.

        Args:
            now: also when that was done less than `rewarm_every_s` ago.
        """
        now_s = self._clock.monotonic()
        if not self.enabled or self._is_stopped:
            return 0
        if not now and now_s - self._rewarmed_s < self._options.rewarm_every_s:
            return 0
        jobs = [self._job_of(name, subject, count, "learnt") for name, subject, count in self.learnt.top()]
        absent = [job for job in jobs if not self._is_here(job.name)]
        if absent:
            self._rewarmed_s = now_s
            self._rewarms += 1
        for job in absent:
            self._put(job)
        return len(absent)

    def export(self) -> bytes:
        """Return what use has taught, for a successor; empty: nothing."""
        return self.learnt.export() if self.enabled else b""

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
        """Look at what became of warmed entries and what is read; queue what is due. The watch does it regularly."""
        now_s = self._clock.monotonic()
        self._gains.sweep(now_s)
        if self.learnt.sweep():
            log.info("the cache was emptied", extra={"rewarmed": self.rewarm()})
        for job in self._criticals(only_due_s=now_s):
            self._put(job)

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

    # Jobs

    def _criticals(self, only_due_s: float | None = None) -> list[Job]:
        """Return the critical warm-ups; at the start all, later those whose time has come."""
        declared: list[Critical | PublicPath] = list(self._warmups.criticals.values())
        if self.answers is not None:
            declared += self._warmups.public_paths.values()
        now_s, jobs = self._clock.monotonic(), []
        for one in declared:
            name = f"critical:{one.name if isinstance(one, Critical) else one.path}"
            if only_due_s is not None and not self._due_s.get(name, float("inf")) <= only_due_s:
                continue
            if one.every_s is not None:
                self._due_s[name] = now_s + one.every_s
            run = self._run_of_load(one) if isinstance(one, Critical) else self._run_of_path(one.path, None)
            jobs.append(Job(name, "critical", one.priority, run, now_s))
        return jobs

    def _is_due(self, user: _User, name: str, every_s: float | None, now_s: float) -> bool:
        warmed_s = user.warmed_s.get(name)
        if warmed_s is not None and now_s - warmed_s < (every_s or self._options.user_every_s):
            return False
        user.warmed_s[name] = now_s
        return True

    def _job_for(self, one: ForPrincipal, user: _User) -> Job:
        principal, load = user.principal, one.load
        name = f"principal:{one.name}:{principal.organization}:{principal.actor}"
        if load is None:
            return self._job(name, "principal", one.priority, self._run_of_path(one.path, principal))

        async def run() -> tuple[str, ...]:
            await load(principal)
            return entry_names(one.keys(principal))

        return self._job(name, "principal", one.priority, run)

    def _job_of(self, name: str, subject: Subject, count: float, kind: Kind) -> Job:
        """Return the job of something learnt; under the name of its entry, so that it is there once."""

        async def run() -> tuple[str, ...]:
            if self._is_here(name):
                raise NotWarmed("present")
            try:
                if isinstance(subject, KeySubject):
                    return await self._load_key(name, subject)
                return await self._make_answer(subject)
            except NotWarmed as nothing:
                if nothing.reason in _HOPELESS:
                    self.learnt.forget(name)
                raise

        return self._job(name, kind, count, run)

    def _job(self, name: str, kind: Kind, priority: float, run: Run) -> Job:
        return Job(name, kind, priority, run, self._clock.monotonic())

    def _run_of_load(self, one: Critical) -> Run:
        async def run() -> tuple[str, ...]:
            await one.load()
            return one.keys

        return run

    def _run_of_path(self, path: str, principal: Principal | None) -> Run:
        async def run() -> tuple[str, ...]:
            if self.answers is None:
                raise NotWarmed("route")
            return (await self.answers.warm(self.answers.subject(path, principal)),)

        return run

    async def _load_key(self, name: str, subject: KeySubject) -> tuple[str, ...]:
        load = self._warmups.loads.get(subject.namespace)
        if load is None:
            raise NotWarmed("route")
        await load(subject.key, subject.organization)
        return (name,)

    async def _make_answer(self, subject: AnswerSubject) -> tuple[str, ...]:
        if self.answers is None:
            raise NotWarmed("route")
        if subject.principal is not None:
            subject = _for(subject, await self._established(subject, subject.principal))
        return (await self.answers.warm(subject),)

    async def _established(self, subject: AnswerSubject, principal: Principal) -> Principal:
        """Return the principal as it is now: an answer must not be made for who may not see it any more."""
        if self._warmups.establish is not None:
            found = await self._warmups.establish(principal.actor, principal.organization)
            if found is None:
                raise NotWarmed("principal")
            return found
        user, oldest_s = self._users.get((principal.actor, principal.organization)), self._clock.wall()
        oldest_s -= self._options.principal_s
        if user is not None and user.met_s >= oldest_s and self._l1.are_current(user.versions):
            return user.principal
        if subject.met_s < oldest_s or not self._l1.are_current(subject.versions):
            raise NotWarmed("principal")
        return principal

    def _is_here(self, name: str) -> bool:
        found = look(self._l1, name)
        return found is not None and found.expires_s > self._clock.monotonic()

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
        began_s, names = self._clock.monotonic(), ()  # type: tuple[float, tuple[str, ...]]
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
        self._cost_ms[job.kind] += took_s * 1000  # type: ignore[assignment]
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


def _for(subject: AnswerSubject, principal: Principal) -> AnswerSubject:
    return AnswerSubject(
        subject.scheme, subject.path, subject.query, subject.headers, subject.encodings, principal, subject.met_s
    )
