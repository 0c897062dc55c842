"""Offences of callers: strikes that leak away, blocks that grow, and both forgotten in time.

The strikes are kept as one moment, at which all of them have leaked away: a strike moves it by `decay_ms`. The formulas
here and in ``lua/penalise.lua`` are the same, in whole milliseconds.

When the table is full, one of those who come due first makes room, unless all of them have longer to go than the newcomer:
a flood of offenders with a strike each pushes out nobody who is blocked.
"""

from __future__ import annotations

from b1.store.base import Penalty, PenaltyRule
from b1.store.passed import NEWS, PassedOffender, Received
from b1.store.terms import Offender
from b1.store.timetable import FILING_BYTES, Timetable

# The entry with its numbers, the string, the dictionary entry at its emptiest (measured).
ENTRY_BYTES = 320 + FILING_BYTES
_TICK_MS = 1000
_REAP_PER_CALL = 4
_CANDIDATES = 8
_NEVER_MS = -(2**62)
_NEVER_TOO_LATE_MS = 2**62
NO_PENALTY = Penalty(0, 0, 0)


class _Offender:
    """`clear_ms`: when no strike is left; `until_ms`: end of the last block; `forget_ms`: when nothing is left of it.

    `struck_ms`: when a decision struck last; `is_passed`: all of it was decided by another process;
    `is_own`: the last block was imposed here while Redis was away.
    """

    __slots__ = ("clear_ms", "forget_ms", "is_own", "is_passed", "level", "struck_ms", "until_ms")

    def __init__(self) -> None:
        self.clear_ms = self.until_ms = self.level = self.forget_ms = 0
        self.struck_ms = _NEVER_MS
        self.is_passed = self.is_own = False

    def level_at(self, now_ms: int, rule: PenaltyRule) -> int:
        """Return how many blocks are not forgotten; as many as there were while the last one goes on."""
        return max(0, self.level - max(0, now_ms - self.until_ms) // rule.forget_ms)


class Offences:
    """A bounded table of offenders; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.news: dict[str, tuple[int, bool]] | None = None
        """What happened since `watch`, by key: see `PassedOffender`; None when nobody asked."""
        self._offenders: dict[str, _Offender] = {}
        self._timetable = Timetable(_TICK_MS)

    def __len__(self) -> int:
        return len(self._offenders)

    def __repr__(self) -> str:
        return f"Offences(keys={len(self._offenders)}, held={self.held_bytes}/{self.limit_bytes} B)"

    def penalise(self, key: str, rule: PenaltyRule, strikes: int, *, pardon: bool, now_ms: int) -> Penalty:
        """Count strikes and say what follows from them."""
        self.reap(now_ms, _REAP_PER_CALL)
        if pardon and key in self._offenders:
            self._drop(key)
        if pardon and self.news is not None and len(self.news) < NEWS:
            self.news[key] = (0, True)
        offender = self._offenders.get(key)
        if offender is None:
            if strikes == 0:
                return NO_PENALTY
            offender = _Offender()
        if strikes and offender.until_ms <= now_ms:
            self._strike(key, offender, rule, strikes, now_ms)
        return _penalty(offender, rule, now_ms)

    def is_clean(self, case: Offender) -> bool:
        """Say whether nothing is known of somebody, and nothing was done while nobody asked."""
        return not case.knocks and case.key not in self._offenders

    def find(self, case: Offender, now_ms: int, *, is_look: bool) -> Penalty:
        """Say where somebody stands before a decision, after what it did while nobody asked; see `Offender.knocks`."""
        offender = self._offenders.get(case.key)
        knocks = 0 if is_look else case.knocks
        if offender is None:
            if not knocks:
                return NO_PENALTY
            offender = _Offender()
        if knocks and offender.until_ms <= now_ms:
            self._strike(case.key, offender, case.rule, knocks, now_ms)
        return _penalty(offender, case.rule, now_ms)

    def refused(self, case: Offender, now_ms: int) -> Penalty:
        """Count a decision that refused somebody who is not shut out."""
        self.reap(now_ms, _REAP_PER_CALL)
        offender = self._offenders.get(case.key) or _Offender()
        if case.strikes and not 0 <= now_ms - offender.struck_ms < case.rule.apart_ms:
            offender.struck_ms = now_ms
            self._strike(case.key, offender, case.rule, case.strikes, now_ms)
        return _penalty(offender, case.rule, now_ms)

    def decided_here(self, key: str) -> None:
        """This process shut somebody out while Redis was away, and Redis knows nothing of it."""
        offender = self._offenders.get(key)
        if offender is not None:
            offender.is_own = True

    def has_decided_here(self, key: str, now_ms: int) -> bool:
        """Say whether such a block goes on."""
        offender = self._offenders.get(key)
        return offender is not None and offender.is_own and offender.until_ms > now_ms

    def _strike(self, key: str, offender: _Offender, rule: PenaltyRule, strikes: int, now_ms: int) -> None:
        offender.is_passed = False
        level = offender.level_at(now_ms, rule)
        added_ms, was_pardoned = (self.news or {}).get(key, (0, False))
        added_ms += strikes * rule.decay_ms
        offender.clear_ms = max(now_ms, offender.clear_ms) + strikes * rule.decay_ms
        if -(-(offender.clear_ms - now_ms) // rule.decay_ms) >= rule.threshold:
            offender.until_ms = now_ms + rule.blocks_ms[min(level, len(rule.blocks_ms) - 1)]
            offender.clear_ms, offender.level = now_ms, level + 1
            added_ms = 0
        if self.news is not None and len(self.news) < NEWS:
            self.news[key] = (added_ms, was_pardoned)
        self._keep(key, offender, now_ms, rule)

    def follow(self, key: str, penalty: Penalty, rule: PenaltyRule, *, now_ms: int) -> None:
        """Know what Redis said, for the time when it is away."""
        if penalty == NO_PENALTY:
            if key in self._offenders:
                self._drop(key)
            return
        offender = self._offenders.get(key) or _Offender()
        offender.is_passed = offender.is_own = False
        offender.level = penalty.level
        offender.clear_ms = now_ms + penalty.strikes * rule.decay_ms
        offender.until_ms = now_ms + penalty.blocked_ms
        self._keep(key, offender, now_ms, rule)

    def watch(self) -> None:
        """Note from now on who offends, and who is pardoned."""
        self.news = {}

    def keys(self) -> list[str]:
        """Return all keys."""
        return list(self._offenders)

    def passing(self, key: str) -> PassedOffender | None:
        """Return an offender for another process; None when there is nothing to tell."""
        offender = self._offenders.get(key)
        added_ms, is_pardoned = (self.news or {}).get(key, (0, False))
        if offender is None:
            return PassedOffender(key, 0, 0, 0, 0, 0, True) if is_pardoned else None
        return PassedOffender(
            key, offender.clear_ms, offender.until_ms, offender.level, offender.forget_ms, added_ms, is_pardoned
        )

    def receive(self, passed: PassedOffender, now_ms: int) -> Received:
        """Go on from what another process knows; where this one has counted too, the longer block counts and strikes
        add up.

        Strikes alone block nobody here: the next one does, since the rule comes with it.
        """
        mine = self._offenders.get(passed.key)
        if mine is not None and mine.is_passed:
            self._drop(passed.key)
            mine = None
        if passed.forget_ms <= now_ms:
            return Received.TAKEN
        if mine is None:
            mine = _Offender()
            mine.is_passed = True
            mine.clear_ms = passed.clear_ms
        else:
            mine.clear_ms = max(now_ms, mine.clear_ms) + passed.added_ms
        mine.until_ms, mine.level = max(mine.until_ms, passed.until_ms), max(mine.level, passed.level)
        is_kept = self._enter(passed.key, mine, now_ms, max(mine.forget_ms, mine.clear_ms, passed.forget_ms))
        return Received.TAKEN if is_kept else Received.NO_ROOM

    def reap(self, now_ms: int, at_most: int) -> None:
        """Look at up to `at_most` keys that are due, and forget those of whom nothing is left."""
        for _ in range(at_most):
            key = self._timetable.take(now_ms)
            if key is None:
                return
            offender = self._offenders.get(key)
            if offender is None:
                continue
            if offender.forget_ms > now_ms:
                self._timetable.file(key, offender.forget_ms)
            else:
                self._drop(key)

    def _keep(self, key: str, offender: _Offender, now_ms: int, rule: PenaltyRule) -> None:
        self._enter(key, offender, now_ms, max(offender.clear_ms, offender.until_ms + rule.forget_ms * offender.level))

    def _enter(self, key: str, offender: _Offender, now_ms: int, forget_ms: int) -> bool:
        offender.forget_ms = forget_ms
        if key in self._offenders:
            return True
        size = ENTRY_BYTES + len(key)
        while self.held_bytes + size > self.limit_bytes:
            if not self._make_room(forget_ms):
                return False
        self._offenders[key] = offender
        self.held_bytes += size
        self._timetable.file(key, forget_ms)
        return True

    def _make_room(self, forget_ms: int) -> bool:
        """Drop the first of a few, in the order in which they come due, who would be forgotten before `forget_ms`."""
        for _ in range(_CANDIDATES):
            key = self._timetable.take(_NEVER_TOO_LATE_MS)
            if key is None:
                return False
            offender = self._offenders.get(key)
            if offender is None:
                continue
            if offender.forget_ms <= forget_ms:
                self._drop(key)
                return True
            self._timetable.file(key, offender.forget_ms)
        return False

    def _drop(self, key: str) -> None:
        del self._offenders[key]
        self.held_bytes -= ENTRY_BYTES + len(key)


def _penalty(offender: _Offender, rule: PenaltyRule, now_ms: int) -> Penalty:
    strikes = -(-max(0, offender.clear_ms - now_ms) // rule.decay_ms)
    return Penalty(max(0, offender.until_ms - now_ms), strikes, offender.level_at(now_ms, rule))
