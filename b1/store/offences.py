"""Offences of callers: strikes that leak away, blocks that grow, and both forgotten in time.

The strikes are kept as one moment, at which all of them have leaked away: a strike moves it by `decay_ms`. The formulas
here and in ``lua/penalise.lua`` are the same, in whole milliseconds.

When the table is full, of a few the one who would be forgotten first makes room, and that may be the newcomer: a flood
of offenders with a strike each pushes out nobody who is blocked.
"""

from __future__ import annotations

from itertools import islice

from b1.store.base import Penalty, PenaltyRule
from b1.store.timetable import FILING_BYTES, Timetable

# The entry with its numbers, the string, the dictionary entry at its emptiest (measured).
ENTRY_BYTES = 320 + FILING_BYTES
_TICK_MS = 1000
_REAP_PER_CALL = 4
_REAP_WHEN_FULL = 64
_CANDIDATES = 8


class _Offender:
    """`clear_ms`: when no strike is left; `until_ms`: end of the last block; `forget_ms`: when nothing is left of it."""

    __slots__ = ("clear_ms", "forget_ms", "level", "until_ms")

    def __init__(self) -> None:
        self.clear_ms = self.until_ms = self.level = self.forget_ms = 0


class Offences:
    """A bounded table of offenders; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
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
        offender = self._offenders.get(key)
        if offender is None:
            if strikes == 0:
                return Penalty(0, 0, 0)
            offender = _Offender()
        is_blocked = offender.until_ms > now_ms
        level = offender.level
        if not is_blocked:
            level = max(0, level - (now_ms - offender.until_ms) // rule.forget_ms)
        clear_ms = max(now_ms, offender.clear_ms)
        if strikes and not is_blocked:
            clear_ms += strikes * rule.decay_ms
            offender.clear_ms = clear_ms
            if -(-(clear_ms - now_ms) // rule.decay_ms) >= rule.threshold:
                offender.until_ms = now_ms + rule.blocks_ms[min(level, len(rule.blocks_ms) - 1)]
                offender.clear_ms = clear_ms = now_ms
                offender.level = level = level + 1
            self._keep(key, offender, now_ms, rule)
        blocked_ms = max(0, offender.until_ms - now_ms)
        return Penalty(blocked_ms, -(-(clear_ms - now_ms) // rule.decay_ms), level)

    def follow(self, key: str, penalty: Penalty, rule: PenaltyRule, *, now_ms: int) -> None:
        """Know what Redis said, for the time when it is away."""
        if penalty == (0, 0, 0):
            if key in self._offenders:
                self._drop(key)
            return
        offender = self._offenders.get(key) or _Offender()
        offender.level = penalty.level
        offender.clear_ms = now_ms + penalty.strikes * rule.decay_ms
        offender.until_ms = now_ms + penalty.blocked_ms
        self._keep(key, offender, now_ms, rule)

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
        offender.forget_ms = max(offender.clear_ms, offender.until_ms + rule.forget_ms * offender.level)
        if key in self._offenders:
            return
        size = ENTRY_BYTES + len(key)
        if self.held_bytes + size > self.limit_bytes:
            self.reap(now_ms, _REAP_WHEN_FULL)
        while self.held_bytes + size > self.limit_bytes:
            if not self._make_room(offender.forget_ms):
                return
        self._offenders[key] = offender
        self.held_bytes += size
        self._timetable.file(key, offender.forget_ms)

    def _make_room(self, forget_ms: int) -> bool:
        """Drop one of the oldest few who would be forgotten before `forget_ms`; the others are asked again last."""
        oldest = list(islice(self._offenders, _CANDIDATES))
        least = min(oldest, key=lambda key: self._offenders[key].forget_ms, default=None)
        for key in oldest:
            self._offenders[key] = self._offenders.pop(key)
        if least is None or self._offenders[least].forget_ms > forget_ms:
            return False
        self._drop(least)
        return True

    def _drop(self, key: str) -> None:
        del self._offenders[key]
        self.held_bytes -= ENTRY_BYTES + len(key)
