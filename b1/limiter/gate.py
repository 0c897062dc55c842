"""Who is refused before anything is counted, and what is held against whom.

Three things in order: the two lists, those who are shut out as far as this process knows, and the terms under which the
store then decides. A caller with an actor is never refused for its address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from b1.limiter.address import address_key, network_of
from b1.limiter.bills import Bill
from b1.limiter.deciding import denied
from b1.limiter.decision import Blame, Caller, Decision
from b1.limiter.deny import DenyCache, Key
from b1.limiter.evidence import Evidence
from b1.limiter.keys import offender_key
from b1.limiter.lists import NOBODY, CallerLists
from b1.store.base import Penalty, PenaltyRule, Spent, Store
from b1.store.terms import Terms

Fields = Mapping[bytes, bytes]
NO_FIELDS: Fields = {}


@dataclass(frozen=True, slots=True)
class LimiterOptions:
    """What a limiter does besides counting.

    Attributes:
        penalties: how offences add up; None: nobody is ever shut out.
        callers: who is never limited, and who is never let in.
        denied_kept: callers who are shut out and refused without asking the store.
        confirm_ms: how long the store's word about one of them is taken; another process may have pardoned it.
        is_ahead: have a store that can decide without waiting for its server; see `b1.store.ahead`.
    """

    penalties: PenaltyRule | None = field(default_factory=PenaltyRule)
    callers: CallerLists = NOBODY
    denied_kept: int = 4096
    confirm_ms: int = 5000
    is_ahead: bool = False


class Gate:
    """Keeps those who are shut out, and says what an offence counts.

    Args:
        now_ms: monotonic.
    """

    def __init__(self, store: Store, options: LimiterOptions, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._lists = options.callers
        self.has_lists = not options.callers.is_empty
        self._rule = options.penalties or PenaltyRule()
        self.denied = DenyCache(self._rule, limit=options.denied_kept, confirm_ms=options.confirm_ms)
        self.begun = 0
        """Blocks that began in an answer to this process."""
        self._evidence = Evidence()
        self.likenesses = self._evidence.until_ms
        """Of those who were shut out lately; look whether it is empty."""

    def __repr__(self) -> str:
        return f"Gate({self.denied!r}, {self._evidence!r})"

    def refusal(self, caller: Caller, blame: Blame) -> Decision | None:
        """Return why a caller is not let in, as far as this process knows; None: the policies decide."""
        if self.has_lists and self._lists.verdict(caller.address, caller.actor) == "deny":
            return denied(caller, self._store.mode)
        if blame == "nobody" or not self.denied.entries:
            return None
        return self.denied.find(_key(caller, blame), self._now_ms())

    def is_free(self, caller: Caller) -> bool:
        """Say whether a caller is never limited."""
        return self.has_lists and self._lists.verdict(caller.address, caller.actor) == "allow"

    def terms(self, bill: Bill, caller: Caller, blame: Blame, fields: Fields, holder: str) -> Terms:
        """Return the terms under which this request is decided; mostly the bill's own."""
        offender = bill.terms.offender
        if offender is not None and (self.denied.entries or self.likenesses):
            now_ms = self._now_ms()
            knocks = self.denied.knocks(_key(caller, blame), now_ms)
            strikes = 1 if caller.actor is not None else self._evidence.strikes(caller.address, fields, now_ms)
            if knocks or strikes != 1:
                offender = replace(offender, strikes=strikes, knocks=knocks)
                return Terms(offender, holder)
        return Terms(offender, holder) if holder else bill.terms

    def note(self, decision: Decision, spent: Spent, caller: Caller, blame: Blame, fields: Fields) -> None:
        """Remember what the store said about a caller."""
        penalty = spent.penalty
        if penalty is None or not (penalty.blocked_ms or self.denied.entries):
            return
        now_ms = self._now_ms()
        if not self.denied.note(_key(caller, blame), penalty, decision, now_ms):
            return
        self.begun += 1
        if caller.actor is None:
            self._evidence.note(caller.address, fields, now_ms + penalty.blocked_ms + self._rule.forget_ms)

    async def penalise(self, caller: Caller, *, strikes: int, pardon: bool) -> Penalty:
        """Count offences of an actor, or of the address of a caller without one; or forget them.

        Raises:
            StoreUnavailable: the store cannot count and has no local state behind it.
        """
        if pardon:
            self.denied.forget(_key(caller, "caller"))
        key = offender_key(address=address_key(caller.address), actor=caller.actor)
        return await self._store.penalise(key, self._rule, strikes=strikes, pardon=pardon)


def _key(caller: Caller, blame: Blame) -> Key:
    if caller.actor is None or blame == "address":
        return network_of(caller.address)
    return "actor", caller.actor
