"""Who answers, Redis or memory: what counts as away, and since when.

One key that Redis cannot serve and one call that ran out of its own time say nothing about the server; then memory answers
that call and the mode stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.link import ReplyError
from b1.store.base import StoreSnapshot
from b1.store.reconcile import ReconcileSnapshot

_log = logging.getLogger("b1.store")
_NEWS_AFTER_S = 1.0
# Errors that are about the whole server; others are about one key or one script.
_OF_THE_SERVER = frozenset(
    {"OOM", "LOADING", "READONLY", "BUSY", "NOAUTH", "NOPERM", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS"}
)
_SAID_OFTEN = 2


@dataclass(frozen=True, slots=True)
class FallbackSnapshot(StoreSnapshot):
    """`StoreSnapshot` of the pair.

    Attributes:
        switches: how often the mode changed.
        local_calls: verbs that memory answered while Redis was configured.
        adopted: records kept in memory because Redis, where their claim was made, had gone.
        mode_since_s: age of the present mode.
        reconcile: what Redis is owed, and was paid.
        instances: processes that share the Redis; while it is away each takes its part of the quotas.
        ahead: decisions that were made before Redis confirmed them; regretted: those that Redis would have refused.
    """

    switches: int
    local_calls: int
    adopted: int
    mode_since_s: float
    reconcile: ReconcileSnapshot
    instances: int = 1
    ahead: int = 0
    regretted: int = 0


class Presence:
    """Whether Redis is there, as calls have shown it.

    Attributes:
        is_local: memory answers.
        switches: how often that changed.
        local_calls: calls that memory answered.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_local = False
        self.switches = self.local_calls = 0
        self._clock = clock
        self._since_s = clock.monotonic()
        self._said = 0

    def __repr__(self) -> str:
        return f"Presence(mode={self.mode!r}, switches={self.switches}, since_s={self.since_s:g})"

    @property
    def mode(self) -> str:
        return "local" if self.is_local else "redis"

    @property
    def since_s(self) -> float:
        """Age of the present mode."""
        return self._clock.monotonic() - self._since_s

    def failed(self, reason: StoreUnavailable, *, is_up: bool) -> bool:
        """Note a call that Redis did not answer; say whether it counts as away from now on.

        It does when its link is down, and when it says repeatedly that it can serve nobody.
        """
        self.local_calls += 1
        if isinstance(reason, ReplyError) and reason.word in _OF_THE_SERVER:
            self._said += 1
        if self.is_local or (is_up and self._said < _SAID_OFTEN):
            return False
        self._switch(True, str(reason))
        return True

    def answered(self) -> None:
        """Note that Redis did answer."""
        self._said = 0
        if self.is_local:
            self._switch(False, "redis answers")

    def _switch(self, is_local: bool, reason: str) -> None:
        # A server that cannot decide is one line in the log; the counter says it better.
        is_news = self.switches == 0 or self.since_s >= _NEWS_AFTER_S
        self.is_local = is_local
        self.switches += 1
        self._since_s = self._clock.monotonic()
        if is_news:
            _log.warning("store mode changed", extra={"mode": self.mode, "reason": reason})
