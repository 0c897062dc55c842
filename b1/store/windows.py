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

import os
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from b1.store.balance import balance_of, share_of, spend_at_once
from b1.store.base import Balance, Charge
from b1.store.passed import NEWS
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
        self.news: dict[str, Window] | None = None
        """What was counted here since `watch`, by key; None when nobody asked."""
        self.unnoted = 0
        """Spends that `news` had no room for."""
        # Nobody may aim at another caller's overflow window. It passes to a successor, so that the same keys share.
        self.salt = os.urandom(16)
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
        self,
        charges: Sequence[Charge],
        now_ms: int,
        *,
        commit: bool,
        is_stand_in: bool = False,
        is_forced: bool = False,
        share: int = 1,
    ) -> tuple[bool, tuple[Balance, ...]]:
        """Take from all charges or from none.

        Args:
            is_stand_in: for Redis; what it owes is noted.
            is_forced: take it whether it fits or not.
            share: how many processes stand in; each has its part of what was left.
        """
        if now_ms >= self._timetable.next_ms:
            self.reap(now_ms, _REAP_PER_SPEND)
        allowed = True
        found = []
        for charge in charges:
            window = self._windows.get(charge.key)
            if window is None or window.window_ms != charge.window_ms:
                window = self._find(charge)
            used = 0
            if window is not None:
                self._advance(window, now_ms)
                used = window.total
            if share > 1:
                charge = share_of(charge, window, share)
            fits = used + charge.cost <= charge.quota
            if not fits and not charge.shadow:
                allowed = False
            found.append((charge, window, fits))
        if is_forced:
            allowed = True
        balances = []
        for charge, window, fits in found:
            if allowed and commit and charge.cost and (fits or is_forced):
                fits = True
                window = self._add(charge, now_ms, is_stand_in=is_stand_in)
            balances.append(balance_of(charge, window, fits, now_ms))
        return allowed, tuple(balances)

    def spend_at_once(self, charges: Sequence[Charge], now_ms: int) -> tuple[Balance, ...] | None:
        """Take from all charges if that is simple; None, and nothing, where `spend` has to be asked."""
        if now_ms >= self._timetable.next_ms or self.news is not None:
            return None
        return spend_at_once(self._windows, charges, now_ms)

    def _advance(self, window: Window, now_ms: int) -> None:
        before = len(window.counters)
        window.advance(now_ms)
        self.held_bytes -= (before - len(window.counters)) * (COUNTER_BYTES // 2)

    def refund(self, charges: Sequence[Charge], now_ms: int) -> None:
        """Give each charge's cost back, newest units first."""
        for charge in charges:
            window = self._find(charge)
            if window is None:
                continue
            self._advance(window, now_ms)
            before = len(window.counters)
            window.take_back(charge.cost)
            self.held_bytes -= (before - len(window.counters)) * (COUNTER_BYTES // 2)
            noted = self.news.get(self._key_of(charge.key)) if self.news else None
            if noted is not None:
                noted.take_back(charge.cost)

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
        if self.news is not None:
            self.news.pop(key, None)
        window = self._windows.get(key)
        if window is None:
            return None
        self._advance(window, now_ms)
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

    def watch(self) -> None:
        """Note from now on, apart, what is counted here."""
        self.news = {}

    def items(self) -> Iterator[tuple[str, Window]]:
        """Return keys and windows; for use between two awaits."""
        return iter(self._windows.items())

    def get(self, key: str) -> Window | None:
        """Return the window of exactly this key."""
        return self._windows.get(key)

    def receive(
        self, key: str, window_ms: int, counters: array[int], total: int, now_ms: int, *, is_owed: bool = False
    ) -> list[tuple[int, int]] | None:
        """Count what another process has counted.

        Args:
            total: sum of the units in `counters`.
            is_owed: Redis has not counted these units.

        Returns:
            The owed units that this table cannot keep apart from those that Redis has; None when nothing was taken,
            for want of room or because the key has a window of another length.
        """
        window = self._windows.get(key)
        if window is None:
            size = KEY_BYTES + len(key) + len(counters) * (COUNTER_BYTES // 2)
            if self.held_bytes + size > self.limit_bytes:
                return None
            window = Window.restored(window_ms, counters, total)
            self._overflow += _OVERFLOW_MARK in key
            self._keep(key, window, now_ms)
            if is_owed:
                window.set_seam(counters[0], 0)
                self.owed[key] = None
            return []
        if window.window_ms != window_ms:
            return None
        before = len(window.counters)
        rest: list[tuple[int, int]] = []
        if is_owed:
            rest = window.merge_owed(counters)
            self.owed[key] = None
        else:
            window.merge(counters)
        self.held_bytes += (len(window.counters) - before) * (COUNTER_BYTES // 2)
        return rest

    def restore(self, rows: list[tuple[str, int, array[int], int]], now_ms: int) -> bool:
        """Do what `receive` does with many new keys at once, twice as fast; False, and nothing, when it cannot.

        Args:
            rows: key, window_ms, counters and their sum.
        """
        size = sum([KEY_BYTES + len(row[0]) + len(row[2]) * (COUNTER_BYTES // 2) for row in rows])
        windows = self._windows
        if self.held_bytes + size > self.limit_bytes or any(row[0] in windows for row in rows):
            return False
        filed: dict[int, list[str]] = {}
        for key, window_ms, counters, total in rows:
            windows[key] = Window.restored(window_ms, counters, total)
            policy = key.rpartition(":")[0]
            self._policy_bytes[policy] = self._policy_bytes.get(policy, 0) + KEY_BYTES + len(key)
            if window_ms in filed:
                filed[window_ms].append(key)
            else:
                filed[window_ms] = [key]
            if _OVERFLOW_MARK in key:
                self._overflow += 1
        for window_ms, keys in filed.items():
            self._timetable.file_all(keys, _last_look_ms(now_ms, window_ms))
        self.held_bytes += size
        return True

    def _find(self, charge: Charge) -> Window | None:
        """Return the window that counts the key, its own or a shared one; None where nothing of use is counted."""
        window = self._windows.get(charge.key)
        if window is None and self._overflow:
            window = self._windows.get(self._overflow_key(charge.key))
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
        if self.news is not None:
            self._note(self.news, charge, now_ms)
        return window

    def _note(self, news: dict[str, Window], charge: Charge, now_ms: int) -> None:
        key = self._key_of(charge.key)
        noted = news.get(key)
        if noted is None or noted.window_ms != charge.window_ms:
            if len(news) >= NEWS:
                self.unnoted += 1
                return
            noted = news[key] = Window(charge.window_ms)
        noted.advance(now_ms)
        noted.add(charge.cost, now_ms)

    def _key_of(self, key: str) -> str:
        return key if key in self._windows else self._overflow_key(key)

    def _overflow_key(self, key: str) -> str:
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=1, key=self.salt).digest()
        return f"{key.rpartition(':')[0]}{_OVERFLOW_MARK}{digest[0] % OVERFLOW_WINDOWS}"

    def _open(self, charge: Charge, now_ms: int) -> Window:
        """Make a window for a key that has none, or find the one it has to share."""
        key = charge.key
        if not self._has_room(key):
            self.reap(now_ms, _REAP_WHEN_FULL)
        shared_key = self._overflow_key(key)
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
        self._timetable.file(key, _last_look_ms(now_ms, window.window_ms))
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


def _last_look_ms(now_ms: int, window_ms: int) -> int:
    """Return when what is counted until now has left the window."""
    return now_ms + window_ms + window_ms // 60 + 1
