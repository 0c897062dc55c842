"""Deciding ahead of Redis: a process spends a small part of a quota from what it knows, and tells Redis right afterwards.

Memory mirrors what Redis counts for this process's callers. While a window is well known and far from full, a request need
not wait for Redis to say what memory says too: it passes, and the same question goes out behind it. The reply corrects the
mirror, by what other processes have spent.

The bound: of each window at most `share` of the quota is unheard at a time, and the last such part is never spent ahead.
So m processes together let at most N + (m - 1) * share * N pass, and one alone exactly N. A process that is killed takes
along what it had not sent, some milliseconds of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from b1.store.asking import Charges
from b1.store.base import Charge, Spent
from b1.store.memory import MemoryStore
from b1.store.offences import NO_PENALTY
from b1.store.terms import Terms
from b1.store.window import IS_MIRROR, TOTAL, WINDOW_MS
from b1.store.windows import LIVELY_COUNTERS


class Ahead:
    """What this process has spent and Redis has not confirmed.

    Args:
        memory: mirrors Redis.
        share: of a quota that may be unheard, more than 0 and less than 1. Quotas of which it is no whole unit are never
            spent ahead.

    Attributes:
        unheard: units by key.
        decided: how often a decision was made here.
        regretted: how often Redis, asked afterwards, had none left.
    """

    def __init__(self, memory: MemoryStore, share: float) -> None:
        self.unheard: dict[str, int] = {}
        self.decided = self.regretted = 0
        self._memory = memory
        self._windows = memory.windows
        self._share = share
        self._skew_ms = 0  # the server's wall clock says so much more than ours

    def __repr__(self) -> str:
        return f"Ahead(share={self._share:g}, unheard={len(self.unheard)}, decided={self.decided})"

    def take(self, charges: Sequence[Charge], terms: Terms) -> Spent | None:
        """Take from all charges and return the decision; None, and nothing is taken, where Redis has to be asked."""
        case, memory = terms.offender, self._memory
        if type(charges) is not Charges or not charges or terms.holder or terms.is_forced:
            return None
        if case is not None and not memory.offences.is_clean(case):
            return None
        windows, unheard, share = self._windows, self.unheard, self._share
        for charge in charges:
            key, cost, quota = charge.key, charge.cost, charge.quota
            window, part = windows.get(key), int(quota * share)
            if window is None or charge.kind != "window" or not window[IS_MIRROR] or key in windows.owed:
                return None
            if unheard.get(key, 0) + cost > part or window[TOTAL] + cost > quota - part:
                return None
        balances = windows.spend_at_once(charges, memory.now_ms())
        if balances is None:
            return None
        for charge in charges:
            unheard[charge.key] = unheard.get(charge.key, 0) + charge.cost
        self.decided += 1
        now_ms = memory.wall_us() // 1000 + self._skew_ms
        return Spent(True, now_ms, balances, None if case is None else NO_PENALTY)

    def undo(self, charges: Sequence[Charge]) -> None:
        """Give back what `take` took: Redis cannot be told."""
        self.decided -= 1
        for charge in charges:
            self._confirm(charge)
        self._memory.refund_now(charges)

    def heard(self, charges: Sequence[Charge], terms: Terms, spent: Spent | None) -> None:
        """Take Redis's reply about what `take` took; None: it is unknown whether Redis counts it.

        What is unknown is owed: Redis will be told the total, which counts nothing twice.
        """
        if spent is None:
            for charge in charges:
                self._confirm(charge)
                if self._windows.get(charge.key) is not None:
                    self._windows.owed[charge.key] = None
            return
        now_ms = self._memory.now_ms()
        self._note_clock(spent)
        self.regretted += not spent.allowed
        for charge, balance in zip(charges, spent.balances, strict=True):
            self._confirm(charge)
            is_counted = spent.allowed and balance.allowed
            if not is_counted:
                self._windows.refund((charge,), now_ms)
            self._correct(charge, balance.used, charge.cost if is_counted else 0, now_ms)
        if terms.offender is not None and spent.penalty is not None and spent.penalty != NO_PENALTY:
            self._memory.offences.follow(terms.offender.key, spent.penalty, terms.offender.rule, now_ms=now_ms)

    def with_unheard(self, charges: Sequence[Charge], spent: Spent) -> Spent:
        """Return what Redis will say when it has heard of everything: a reply to another question does not count that."""
        self._note_clock(spent)
        unheard = self.unheard
        if not any(charge.key in unheard for charge in charges):
            return spent
        balances = [
            balance._replace(used=balance.used + unheard.get(charge.key, 0))
            for charge, balance in zip(charges, spent.balances, strict=True)
        ]
        return spent._replace(balances=tuple(balances))

    def _note_clock(self, spent: Spent) -> None:
        self._skew_ms = spent.now_ms - self._memory.wall_us() // 1000

    def _correct(self, charge: Charge, used: int, spent: int, now_ms: int) -> None:
        """Follow what Redis counts: `used` with the `spent` units of this answer, without those that are on their way."""
        windows = self._windows
        window, total = windows.get(charge.key), used + self.unheard.get(charge.key, 0)
        if window is None or window[TOTAL] == total or window[WINDOW_MS] != charge.window_ms:
            return
        if charge.key in windows.owed:
            return  # Redis will be told the total, and says less until then
        before = len(window)
        window.advance(now_ms)
        more = window[TOTAL] - total
        if used == spent and window.total_since(now_ms * 60 // window[WINDOW_MS] - LIVELY_COUNTERS) > total:
            windows.owed[charge.key] = None  # Redis should know more: its data was lost
        elif more > 0:
            window.drop_oldest(more)
        elif more < 0:
            window.add(-more, now_ms, may_grow=windows.shelf.may_grow)
        windows.recount(window, before)

    def _confirm(self, charge: Charge) -> None:
        left = self.unheard.get(charge.key, 0) - charge.cost
        if left > 0:
            self.unheard[charge.key] = left
        else:
            self.unheard.pop(charge.key, None)
