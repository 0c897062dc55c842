"""All sliding windows of one process, within a byte bound that a flood of new keys cannot turn against the limits.

Nothing that still counts is ever evicted, so an exhausted caller stays exhausted. When there is no room for a new key
(the whole is nearly full, or its policy holds a quarter of it), the key shares one of its policy's 256 overflow windows
with the others of its hash: strict, never lax. When there is room again, a key starts with a copy of what its overflow
window counts, so it cannot spend the same units twice.
A policy is what precedes the last ``:`` of a key.

Behind a Redis store the table mirrors what Redis counts for this process's callers, and keeps a list of the keys whose
windows Redis does not fully know.
"""

from __future__ import annotations

from collections.abc import Sequence

from b1.store.base import Balance, Charge
from b1.store.timetable import FILING_BYTES, Timetable
from b1.store.window import Part, Window

OVERFLOW_WINDOWS = 256
POLICY_SHARE = 4
# Measured on CPython 3.11 to 3.13 (tests/store/test_windows.py compares with tracemalloc): the Window, its array with
# the spare room it allocates, the key string without its characters, a dictionary entry at its emptiest, the total.
KEY_BYTES = 312 + FILING_BYTES
COUNTER_BYTES = 16
_TICK_MS = 1000
_REAP_PER_SPEND = 4
_REAP_WHEN_FULL = 64
# The oldest counters may have left the window in Redis already, whose counters begin at other moments.
_LIVELY_COUNTERS = 57
_OVERFLOW_MARK = ":~"  # no digest contains it


class Windows:
    """A bounded table of windows.

    Shared state, touched only between two awaits of one event loop; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes; new keys are refused a window of their own at 7/8 of it, the rest is room for
            the windows that exist to grow. Overflow windows come on top of it, 256 per policy at most.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.overflowed = 0
        """How many spends went to an overflow window because there was no room."""
        self.owed: dict[str, None] = {}
        """Keys whose windows hold units that Redis has to be told of; see `mirror` and `hand_over`."""
        self._windows: dict[str, Window] = {}
        self._overflow = 0  # how many of them are overflow windows
        self._policy_bytes: dict[str, int] = {}
        self._timetable = Timetable(_TICK_MS)
        self._new_key_limit = limit_bytes * 7 // 8
        self._policy_limit = limit_bytes // POLICY_SHARE

    def __len__(self) -> int:
        return len(self._windows)

    def __repr__(self) -> str:
        return (
            f"Windows(keys={len(self._windows)}, overflow={self._overflow}, "
            f"held={self.held_bytes}/{self.limit_bytes} B)"
        )

    def spend(
        self, charges: Sequence[Charge], now_ms: int, *, commit: bool, is_stand_in: bool = False
    ) -> tuple[bool, tuple[Balance, ...]]:
        """Take from all charges or from none; a stand-in for Redis notes what it owes."""
        if now_ms >= self._timetable.next_ms:
            self.reap(now_ms, _REAP_PER_SPEND)
        allowed = True
        found = []
        for charge in charges:
            window = self._find(charge)
            if window is None:
                fits = charge.cost <= charge.quota
            else:
                before = len(window.counters)
                window.advance(now_ms)
                self.held_bytes -= (before - len(window.counters)) * (COUNTER_BYTES // 2)
                fits = window.total + charge.cost <= charge.quota
            if not fits and not charge.shadow:
                allowed = False
            found.append((charge, window, fits))
        takes = allowed and commit
        balances = []
        for charge, window, fits in found:
            if takes and fits and charge.cost:
                window = self._add(charge, now_ms, is_stand_in=is_stand_in)
            balances.append(_balance(charge, window, fits, now_ms))
        return allowed, tuple(balances)

    def refund(self, charges: Sequence[Charge], now_ms: int) -> None:
        """Give each charge's cost back, newest units first."""
        for charge in charges:
            window = self._find(charge)
            if window is None:
                continue
            before = len(window.counters)
            window.advance(now_ms)
            window.take_back(charge.cost)
            self.held_bytes -= (before - len(window.counters)) * (COUNTER_BYTES // 2)

    def mirror(self, charge: Charge, used: int, spent: int, now_ms: int) -> None:
        """Follow what Redis counts: `used` units now, `spent` of them by this call.

        Units that others spent are dated now, so they never come back early here. When Redis has nothing although it
        should, its data was lost: the window stays as it is, and is owed.
        """
        window = self._windows.get(charge.key)
        if window is None:
            if used == 0 or not self._has_room(charge.key):
                return
            window = self._keep(charge.key, Window(charge.window_ms), now_ms)
        before = len(window.counters)
        if window.window_ms != charge.window_ms:
            window.restart(charge.window_ms)
        window.advance(now_ms)
        if used == spent and window.total_since(now_ms * 60 // window.window_ms - _LIVELY_COUNTERS):
            self.owed[charge.key] = None
        elif charge.key not in self.owed:
            window.is_mirror = True
            if window.total + spent > used:
                window.drop_oldest(window.total + spent - used)
        missing = max(spent, used - window.total)
        if missing:
            window.add(missing, now_ms, may_grow=self.held_bytes < self.limit_bytes)
        self.held_bytes += (len(window.counters) - before) * (COUNTER_BYTES // 2)

    def owe_all(self) -> None:
        """Redis may have lost its data: all that is mirrored is owed."""
        self.owed.update((key, None) for key, window in self._windows.items() if window.is_mirror)

    def hand_over(self, key: str, now_ms: int) -> tuple[int, list[Part]] | None:
        """Return the window's length and units for Redis, and take it off the list; None when there is nothing."""
        self.owed.pop(key, None)
        window = self._windows.get(key)
        if window is None:
            return None
        before = len(window.counters)
        window.advance(now_ms)
        self.held_bytes -= (before - len(window.counters)) * (COUNTER_BYTES // 2)
        parts = window.parts(now_ms)
        window.close_seam()
        return (window.window_ms, parts) if window.total else None

    def reap(self, now_ms: int, at_most: int) -> None:
        """Look at up to `at_most` keys that are due, and forget those that count nothing any more."""
        for _ in range(at_most):
            key = self._timetable.take(now_ms)
            if key is None:
                return
            window = self._windows[key]
            ends_at_ms = window.ends_at_ms()
            if ends_at_ms > now_ms:
                self._timetable.file(key, ends_at_ms)
            else:
                self._forget(key, window)

    def _find(self, charge: Charge) -> Window | None:
        """Return the window that counts the key, its own or a shared one; None where nothing of use is counted."""
        window = self._windows.get(charge.key)
        if window is None and self._overflow:
            window = self._windows.get(_overflow_key(charge.key))
        # What was counted for another window length says nothing about this one.
        return window if window is not None and window.window_ms == charge.window_ms else None

    def _add(self, charge: Charge, now_ms: int, *, is_stand_in: bool) -> Window:
        window = self._windows.get(charge.key)
        if window is None:
            window = self._open(charge, now_ms)
        before = len(window.counters)
        if window.window_ms != charge.window_ms:
            window.restart(charge.window_ms)
        if is_stand_in and charge.key in self._windows:  # units in a shared window are nobody's in particular
            window.open_seam(now_ms)
            self.owed[charge.key] = None
        window.add(charge.cost, now_ms, may_grow=self.held_bytes < self.limit_bytes)
        self.held_bytes += (len(window.counters) - before) * (COUNTER_BYTES // 2)
        return window

    def _open(self, charge: Charge, now_ms: int) -> Window:
        """Make a window for a key that has none, or find the one it has to share."""
        key = charge.key
        if not self._has_room(key):
            self.reap(now_ms, _REAP_WHEN_FULL)
        shared_key = _overflow_key(key)
        shared = self._windows.get(shared_key) if self._overflow else None
        if self._has_room(key):
            return self._keep(key, Window(charge.window_ms) if shared is None else shared.copy(), now_ms)
        self.overflowed += 1
        if shared is None:
            self._overflow += 1
            shared = self._keep(shared_key, Window(charge.window_ms), now_ms)
        return shared

    def _keep(self, key: str, window: Window, now_ms: int) -> Window:
        policy, size = key.rpartition(":")[0], KEY_BYTES + len(key)
        self._windows[key] = window
        self._policy_bytes[policy] = self._policy_bytes.get(policy, 0) + size
        self.held_bytes += size + len(window.counters) * (COUNTER_BYTES // 2)
        self._timetable.file(key, now_ms + window.window_ms + window.window_ms // 60 + 1)
        return window

    def _has_room(self, key: str) -> bool:
        policy, size = key.rpartition(":")[0], KEY_BYTES + len(key)
        return (
            self.held_bytes + size <= self._new_key_limit
            and self._policy_bytes.get(policy, 0) + size <= self._policy_limit
        )

    def _forget(self, key: str, window: Window) -> None:
        policy, size = key.rpartition(":")[0], KEY_BYTES + len(key)
        del self._windows[key]
        self.owed.pop(key, None)
        if _OVERFLOW_MARK in key:
            self._overflow -= 1
        self.held_bytes -= size + len(window.counters) * (COUNTER_BYTES // 2)
        left = self._policy_bytes[policy] - size
        if left:
            self._policy_bytes[policy] = left
        else:
            del self._policy_bytes[policy]


def _overflow_key(key: str) -> str:
    # str hashes are salted per process, so nobody can aim at another caller's overflow window.
    return f"{key.rpartition(':')[0]}{_OVERFLOW_MARK}{hash(key) % OVERFLOW_WINDOWS}"


def _balance(charge: Charge, window: Window | None, fits: bool, now_ms: int) -> Balance:
    used = 0 if window is None else window.total
    if window is None or used == 0:
        return Balance(fits, 0, charge.quota, 0 if fits else -1, 0, 0)
    remaining = charge.quota - used
    retry_ms = 0
    if not fits:
        excess = used + charge.cost - charge.quota
        retry_ms = -1 if charge.cost > charge.quota else window.freed_at_ms(excess) - now_ms
    if remaining > 0:
        return Balance(fits, used, remaining, retry_ms, 0, window.ends_at_ms() - now_ms)
    # More than the quota is counted after a quota was lowered: the first unit comes back when the excess has gone.
    renew_ms = window.freed_at_ms(1 - remaining) - now_ms if charge.quota else 0
    return Balance(fits, used, 0, retry_ms, renew_ms, window.ends_at_ms() - now_ms)
