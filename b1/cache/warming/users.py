"""Whom this process has met: so that each user's warm-ups run once in their interval, and for who the user is now."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from b1.cache.l1.table import L1
from b1.cache.warming.declared import Establish
from b1.cache.warming.options import WarmingOptions
from b1.cache.warming.subjects import AnswerSubject, NotWarmed
from b1.clock import Clock
from b1.types import Principal, Versions


class User(NamedTuple):
    """One actor in one organisation.

    Attributes:
        met_s: wall time.
        versions: of the tag under which identity forgets the actor, when it was met.
        warmed_s: when what was warmed for it, by declaration, on the monotonic clock.
    """

    principal: Principal
    met_s: float
    versions: Versions
    warmed_s: dict[str, float]


class Users:
    """The users met last."""

    def __init__(self, l1: L1, clock: Clock, options: WarmingOptions) -> None:
        self._l1 = l1
        self._clock = clock
        self._options = options
        self._met: OrderedDict[tuple[str, str | None], User] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Users met={len(self._met)}>"

    def __len__(self) -> int:
        return len(self._met)

    def met(self, principal: Principal) -> User:
        """Remember a user as it is now."""
        key = principal.actor, principal.organization
        known = self._met.pop(key, None)
        warmed_s = {} if known is None else known.warmed_s
        self._met[key] = user = User(principal, self._clock.wall(), actor_versions(self._l1, principal), warmed_s)
        if len(self._met) > self._options.users:
            self._met.popitem(last=False)
        return user

    def is_due(self, user: User, name: str, every_s: float | None) -> bool:
        """Say whether something may be warmed for a user now, and note that it is."""
        now_s = self._clock.monotonic()
        warmed_s = user.warmed_s.get(name)
        if warmed_s is not None and now_s - warmed_s < (every_s or self._options.user_every_s):
            return False
        user.warmed_s[name] = now_s
        return True

    def all_due(self) -> None:
        """Have everything due for each user when they are met next: what was warmed for them is gone."""
        for user in self._met.values():
            user.warmed_s.clear()

    async def established(self, subject: AnswerSubject, principal: Principal, establish: Establish | None) -> Principal:
        """Return the principal as it is now: an answer must not be made for who may not see it any more.

        Raises:
            NotWarmed: the actor may not act there, was forgotten, or was met too long ago.
        """
        if establish is not None:
            found = await establish(principal.actor, principal.organization)
            if found is None or (found.actor, found.organization) != (principal.actor, principal.organization):
                raise NotWarmed("principal")
            return found
        oldest_s = self._clock.wall() - self._options.principal_s
        user = self._met.get((principal.actor, principal.organization))
        if user is not None and user.met_s >= oldest_s and self._l1.are_current(user.versions):
            return user.principal
        if subject.met_s < oldest_s or not self._l1.are_current(subject.versions):
            raise NotWarmed("principal")
        return principal


def actor_versions(l1: L1, principal: Principal) -> Versions:
    """Return the versions that move when `b1.identity` forgets the actor."""
    return l1.versions_of((f"actor:{principal.actor}",))
