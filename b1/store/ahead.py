"""Deciding ahead of Redis: a process spends a small part of a quota from what it knows, and tells Redis right afterwards.

Memory mirrors what Redis counts for this process's callers. While a window is well known and far from full, a request need
not wait for Redis to say what memory says too: it passes, and the same question goes out behind it. The reply corrects the
mirror, by what other processes have spent.

The bound: of each window at most `share` of the quota is unheard at a time, and the last such part is never spent ahead,
what was asked for and not answered counted as spent. So m processes together let at most N + (m - 1) * share * N pass in
any window, and one alone exactly N: what passed although Redis had none left is told to Redis too, and counts there over
the quota, or else it would be given out again and again. A process that is killed takes along what it had not sent, some
milliseconds of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from b1.store.asking import Charges
from b1.store.base import Charge, Spent
from b1.store.memory import MemoryStore
from b1.store.offences import NO_PENALTY
from b1.store.terms import Terms
from b1.store.window import IS_MIRROR, TOTAL, WINDOW_MS
from b1.store.windows import LIVELY_COUNTERS

Answer = TypeVar("Answer")


class Ahead:
    """What this process has spent and Redis has not confirmed.

    Args:
        memory: mirrors Redis.
        share: of a quota that may be unheard, more than 0 and less than 1. Quotas of which it is no whole unit are never
            spent ahead.

    Attributes:
        unheard: units by key.
        asked: units by key that Redis was asked for first, and has not answered about.
        passed: by key, with a charge of it, units that passed here and that Redis refused; it is told of them as soon as
            nothing of the key is unheard.
        decided: how often a decision was made here.
        regretted: how often Redis, asked afterwards, had none left.
    """

    def __init__(self, memory: MemoryStore, share: float) -> None:
        self.unheard: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self.passed: dict[str, tuple[Charge, int]] = {}
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
        windows, unheard, asked, passed, share = self._windows, self.unheard, self.asked, self.passed, self._share
        for charge in charges:
            key, cost, quota = charge.key, charge.cost, charge.quota
            window, part = windows.get(key), int(quota * share)
            if window is None or charge.kind != "window" or not window[IS_MIRROR] or key in windows.owed:
                return None
            taken = window[TOTAL] + asked.get(key, 0) if asked else window[TOTAL]
            if unheard.get(key, 0) + cost > part or taken + cost > quota - part or key in passed:
                return None
        balances = windows.spend_at_once(charges, memory.now_ms())
        if balances is None:
            return None
        for charge in charges:
            unheard[charge.key] = unheard.get(charge.key, 0) + charge.cost
        self.decided += 1
        now_ms = memory.wall_us() // 1000 + self._skew_ms
        return Spent(True, now_ms, balances, None if case is None else NO_PENALTY)

    def ask(self, charges: Sequence[Charge]) -> None:
        """Redis is being asked first; call `answered` when it has answered, or will not."""
        asked = self.asked
        for charge in charges:
            asked[charge.key] = asked.get(charge.key, 0) + charge.cost

    def answered(self, charges: Sequence[Charge]) -> None:
        """What `ask` noted is over."""
        for charge in charges:
            _lessen(self.asked, charge)

    async def minding(self, charges: Sequence[Charge], answer: Awaitable[Answer]) -> Answer:
        """Return what is awaited, and know meanwhile that Redis is being asked."""
        self.ask(charges)
        try:
            return await answer
        finally:
            self.answered(charges)

    def spend(
        self, charges: Sequence[Charge], terms: Terms, post: Callable[..., bool], note: Callable[[Spent | None], None]
    ) -> Spent | None:
        """Do what `take` does, and have Redis told.

        Args:
            post: as `RedisStore.spend_soon`.
            note: is told Redis's reply after it was followed here.
        """
        spent = self.take(charges, terms)
        if spent is None:
            return None

        def heard(reply: Spent | None) -> None:
            self.heard(charges, terms, reply)
            note(reply)

        if post(charges, terms, heard, is_patient=True):
            return spent
        self.undo(charges)
        return None

    def undo(self, charges: Sequence[Charge]) -> None:
        """Give back what `take` took: Redis cannot be told."""
        self.decided -= 1
        for charge in charges:
            _lessen(self.unheard, charge)
        self._memory.refund_now(charges)

    def heard(self, charges: Sequence[Charge], terms: Terms, spent: Spent | None) -> None:
        """Take Redis's reply about what `take` took; None: it is unknown whether Redis counts it.

        What is unknown is owed: Redis will be told the total, which counts nothing twice.
        """
        now_ms = self._memory.now_ms()
        if spent is None:
            for charge in charges:
                _lessen(self.unheard, charge)
                if self._windows.get(charge.key) is not None:
                    self._windows.owed[charge.key] = None
                self._owe_passed(charge.key, now_ms)
            return
        self._note_clock(spent)
        self.regretted += not spent.allowed
        for charge, balance in zip(charges, spent.balances, strict=True):
            _lessen(self.unheard, charge)
            is_counted = spent.allowed and balance.allowed
            if not spent.allowed:
                _, units = self.passed.get(charge.key, (charge, 0))
                self.passed[charge.key] = charge, units + charge.cost
            elif not is_counted:  # a shadow's quota is used up, which refuses nobody and counts no further
                self._windows.refund((charge,), now_ms)
            self._correct(charge, balance.used, charge.cost if is_counted else 0, now_ms)
            self._owe_passed(charge.key, now_ms)
        if terms.offender is not None and spent.penalty is not None and spent.penalty != NO_PENALTY:
            self._memory.offences.follow(terms.offender.key, spent.penalty, terms.offender.rule, now_ms=now_ms)

    def with_unheard(self, charges: Sequence[Charge], spent: Spent) -> Spent:
        """Return what Redis will say when it has heard of everything: a reply to another question does not count that."""
        self._note_clock(spent)
        unheard, passed = self.unheard, self.passed
        if not (unheard or passed) or not any(charge.key in unheard or charge.key in passed for charge in charges):
            return spent
        balances = []
        for charge, balance in zip(charges, spent.balances, strict=True):
            if spent.allowed and self._is_lost(charge, balance.used, charge.cost):
                self._windows.owed[charge.key] = None
            balances.append(balance._replace(used=balance.used + self._untold(charge.key)))
        return spent._replace(balances=tuple(balances))

    def _note_clock(self, spent: Spent) -> None:
        self._skew_ms = spent.now_ms - self._memory.wall_us() // 1000

    def _correct(self, charge: Charge, used: int, spent: int, now_ms: int) -> None:
        """Follow what Redis counts: `used` with the `spent` units of this answer, without those that are on their way."""
        windows = self._windows
        window, total = windows.get(charge.key), used + self._untold(charge.key)
        if window is None or window[TOTAL] == total or window[WINDOW_MS] != charge.window_ms:
            return
        if charge.key in windows.owed:
            return  # Redis will be told the total, and says less until then
        before = len(window)
        window.advance(now_ms)
        more = window[TOTAL] - total
        if self._is_lost(charge, used, spent):
            windows.owed[charge.key] = None  # Redis should know more: its data was lost
        elif more > 0:
            window.drop_oldest(more)
        elif more < 0:
            window.add(-more, now_ms, may_grow=windows.shelf.may_grow)
        windows.recount(window, before)

    def _untold(self, key: str) -> int:
        """Units in the window that Redis had not counted when it answered."""
        passed = self.passed.get(key)
        return self.unheard.get(key, 0) + (0 if passed is None else passed[1])

    def _is_lost(self, charge: Charge, used: int, spent: int) -> bool:
        """Say whether Redis counts no more than what it is being asked just now, and should: its data was lost.

        Only what was counted so lately that it cannot have left Redis's window says so.
        """
        window, coming = self._windows.get(charge.key), self.asked.get(charge.key, 0)
        if used > spent + coming or window is None or window[WINDOW_MS] != charge.window_ms:
            return False
        since = self._memory.now_ms() * 60 // window[WINDOW_MS] - LIVELY_COUNTERS
        return window.total_since(since) > used + coming + self._untold(charge.key)

    def _owe_passed(self, key: str, now_ms: int) -> None:
        """Have Redis told of what passed and what it refused, when all else that it was told of this key is answered.

        Before, what is merged would count what is on its way too.
        """
        if key in self.unheard or key not in self.passed:
            return
        charge, units = self.passed.pop(key)
        windows = self._windows
        window = windows.get(key)
        if window is None or window[WINDOW_MS] != charge.window_ms:
            return
        before = len(window)
        window.advance(now_ms)
        window.take_back(units)
        window.open_seam(now_ms)
        window.add(units, now_ms, may_grow=windows.shelf.may_grow)
        windows.recount(window, before)
        windows.owed[key] = None


def _lessen(units: dict[str, int], charge: Charge) -> None:
    left = units.get(charge.key, 0) - charge.cost
    if left > 0:
        units[charge.key] = left
    else:
        units.pop(charge.key, None)
