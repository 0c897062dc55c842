"""Makes warm-ups out of what was declared and what was learnt; what runs them, and when, is the service's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from b1.cache.l1.table import L1
from b1.cache.warming.declared import Critical, ForPrincipal, PublicPath, Warmups, entry_names
from b1.cache.warming.jobs import Job, Kind, Run
from b1.cache.warming.learnt import Learnt
from b1.cache.warming.looking import look
from b1.cache.warming.subjects import AnswerSubject, KeySubject, NotWarmed, Subject
from b1.cache.warming.users import User, Users
from b1.clock import Clock
from b1.types import Principal

# What cannot be warmed now will not be next time either.
_HOPELESS = frozenset({"route", "unkept", "forbidden"})
_LEARNT = ""  # the name of what was learnt, among a user's declarations


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


class Planning:
    """Makes jobs.

    Args:
        answers: returns what makes answers; None: there is no response cache.
    """

    def __init__(
        self,
        warmups: Warmups,
        learnt: Learnt,
        users: Users,
        l1: L1,
        clock: Clock,
        answers: Callable[[], Answers | None],
    ) -> None:
        self._warmups = warmups
        self._learnt = learnt
        self._users = users
        self._l1 = l1
        self._clock = clock
        self._answers = answers
        self._due_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Planning {self._warmups!r} {self._learnt!r}>"

    def criticals(self, *, only_due: bool = False) -> list[Job]:
        """Return the critical warm-ups, the most urgent first: all, or those that are due again."""
        declared: list[Critical | PublicPath] = list(self._warmups.criticals.values())
        if self._answers() is not None:
            declared += self._warmups.public_paths.values()
        now_s, jobs = self._clock.monotonic(), []
        for one in declared:
            name = f"critical:{one.name if isinstance(one, Critical) else one.path}"
            if only_due and self._due_s.get(name, float("inf")) > now_s:
                continue
            if one.every_s is not None:
                self._due_s[name] = now_s + one.every_s
            run = self._loading(one) if isinstance(one, Critical) else self._making(one.path, None)
            jobs.append(Job(name, "critical", one.priority, run, now_s))
        return sorted(jobs, key=lambda job: job.rank)

    def for_user(self, principal: Principal) -> list[Job]:
        """Return what is due for a user who has appeared: what was declared, and what this one reads most."""
        user, is_due = self._users.met(principal), self._users.is_due
        jobs = [
            self._declared(one, user)
            for one in self._warmups.principals.values()
            if (one.load is not None or self._answers() is not None) and is_due(user, one.name, one.every_s)
        ]
        if len(self._learnt) and is_due(user, _LEARNT, None):
            mine = self._learnt.of(principal.actor, principal.organization)
            jobs += [self._learnt_job(*one, kind="principal") for one in mine if not self._is_here(one[0])]
        return jobs

    def after_emptying(self) -> list[Job]:
        """Return what was declared for the start; what was declared for users is due when they are met next."""
        self._users.all_due()
        return self.criticals()

    def most_read(self) -> list[Job]:
        """Return what is read most and is not here."""
        return [self._learnt_job(*one, kind="learnt") for one in self._learnt.top() if not self._is_here(one[0])]

    def _declared(self, one: ForPrincipal, user: User) -> Job:
        principal, load = user.principal, one.load
        name = f"principal:{one.name}:{principal.organization}:{principal.actor}"

        async def run() -> tuple[str, ...]:
            if load is None:
                return await self._making(one.path, principal)()
            await load(principal)
            return entry_names(one.keys(principal))

        return Job(name, "principal", one.priority, run, self._clock.monotonic())

    def _learnt_job(self, name: str, subject: Subject, count: float, kind: Kind) -> Job:
        """Return the job for what was learnt, under the name of its entry: it waits once, whoever wants it."""

        async def run() -> tuple[str, ...]:
            if self._is_here(name):
                raise NotWarmed("present")
            try:
                if isinstance(subject, AnswerSubject):
                    return await self._answer(subject)
                return await self._key(name, subject)
            except NotWarmed as nothing:
                if nothing.reason in _HOPELESS:
                    self._learnt.forget(name)
                raise

        return Job(name, kind, count, run, self._clock.monotonic())

    def _loading(self, one: Critical) -> Run:
        async def run() -> tuple[str, ...]:
            await one.load()
            return one.keys

        return run

    def _making(self, path: str, principal: Principal | None) -> Run:
        async def run() -> tuple[str, ...]:
            answers = self._answers()
            if answers is None:
                raise NotWarmed("route")
            return (await answers.warm(answers.subject(path, principal)),)

        return run

    async def _key(self, name: str, subject: KeySubject) -> tuple[str, ...]:
        load = self._warmups.loads.get(subject.namespace)
        if load is None:
            raise NotWarmed("route")
        await load(subject.key, subject.organization)
        return (name,)

    async def _answer(self, subject: AnswerSubject) -> tuple[str, ...]:
        answers = self._answers()
        if answers is None:
            raise NotWarmed("route")
        if subject.principal is not None:
            found = await self._users.established(subject, subject.principal, self._warmups.establish)
            subject = replace(subject, principal=found)
        return (await answers.warm(subject),)

    def _is_here(self, name: str) -> bool:
        found = look(self._l1, name)
        return found is not None and found.expires_s > self._clock.monotonic()
