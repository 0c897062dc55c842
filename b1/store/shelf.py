"""Where the windows of one process lie: a byte bound that a flood of new keys cannot turn against the limits.

Nothing that still counts is ever evicted, so an exhausted caller stays exhausted. When there is no room for a new key
(the whole is nearly full, or its policy holds a quarter of it), the key shares one of its policy's 256 overflow windows
with the others of its hash: strict, never lax. When there is room again, a key starts with a copy of what its overflow
window counts, so it cannot spend the same units twice.
A policy is what precedes the last ``:`` of a key.
"""

from __future__ import annotations

import os
from array import array
from hashlib import blake2b

from b1.store.timetable import FILING_BYTES, Timetable
from b1.store.window import FIRST, WINDOW_MS, Window

OVERFLOW_WINDOWS = 256
POLICY_SHARE = 4
# Measured on CPython 3.11 to 3.13 (tests/store/test_windows.py compares with tracemalloc): the Window with the spare
# room it allocates, the key string without its characters, a dictionary entry at its emptiest, the total.
KEY_BYTES = 232 + FILING_BYTES
COUNTER_BYTES = 16
REAP_PER_CALL = 4
OVERFLOW_MARK = ":~"  # no digest contains it
_TICK_MS = 1000
_REAP_WHEN_FULL = 64


class Shelf:
    """Windows by key; `Windows` spends from them.

    Args:
        limit_bytes: accounted bytes; new keys are refused a window of their own at 7/8 of it, the rest is room for
            the windows that exist to grow. Overflow windows come on top of it, 256 per policy at most.

    Attributes:
        windows: read it anywhere; only `keep` and `reap` add and remove.
        held_bytes: whoever changes a window's counters corrects it, by `COUNTER_BYTES` for two numbers.
        overflowed: how many spends went to an overflow window because there was no room.
        owed: keys of windows that Redis does not fully know; see `Windows`.
        salt: nobody may aim at another caller's overflow window. It passes to a successor, so that the same keys share.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.windows: dict[str, Window] = {}
        self.held_bytes = self.overflowed = 0
        self.salt = os.urandom(16)
        self.owed: dict[str, None] = {}
        self.timetable = Timetable(_TICK_MS)
        self._overflow = 0  # how many of the windows are overflow windows
        self._policy_bytes: dict[str, int] = {}
        self._new_key_limit = limit_bytes * 7 // 8
        self._policy_limit = limit_bytes // POLICY_SHARE

    def __repr__(self) -> str:
        return (
            f"Shelf(keys={len(self.windows)}, overflow={self._overflow}, held={self.held_bytes}/{self.limit_bytes} B)"
        )

    @property
    def may_grow(self) -> bool:
        """Whether a window may have one counter more."""
        return self.held_bytes < self.limit_bytes

    def advance(self, window: Window, now_ms: int) -> None:
        """Drop what left the window."""
        before = len(window)
        window.advance(now_ms)
        self.held_bytes -= (before - len(window)) * (COUNTER_BYTES // 2)

    def home_of(self, key: str) -> str:
        """Return the key under which a key is counted: its own, or one that it shares."""
        if self._overflow and key not in self.windows:
            shared = self.shared_key(key)
            if shared in self.windows:
                return shared
        return key

    def shared_key(self, key: str) -> str:
        """Return the key of the overflow window that a key would share."""
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=1, key=self.salt).digest()
        return f"{key.rpartition(':')[0]}{OVERFLOW_MARK}{digest[0] % OVERFLOW_WINDOWS}"

    def open(self, key: str, home: str, window_ms: int, now_ms: int) -> Window:
        """Make a window for a key that has none, or return the one that it has to share.

        Args:
            home: from `home_of`, a moment ago.
        """
        policy, size = key.rpartition(":")[0], KEY_BYTES + len(key)
        has_room = self._has_room(policy, size)
        if not has_room and self.timetable.next_ms <= now_ms:
            self.reap(now_ms, _REAP_WHEN_FULL)
            has_room = self._has_room(policy, size)
        shared = None if home == key else self.windows.get(home)
        if has_room:
            return self._put(key, Window(window_ms) if shared is None else shared.copy(), now_ms, policy, size)
        self.overflowed += 1
        if shared is None:
            home = self.shared_key(key)
            shared = self.windows.get(home)  # another charge of the same decision may have made it
        if shared is None:
            self._overflow += 1
            shared = self._put(home, Window(window_ms), now_ms, policy, KEY_BYTES + len(home))
        return shared

    def open_own(self, key: str, window_ms: int, now_ms: int) -> Window | None:
        """Make a window that is the key's alone; None: there is no room."""
        policy, size = key.rpartition(":")[0], KEY_BYTES + len(key)
        return self._put(key, Window(window_ms), now_ms, policy, size) if self._has_room(policy, size) else None

    def receive(self, key: str, window_ms: int, counters: array[int], total: int, now_ms: int) -> bool:
        """Put a window of another process under a key that has none; False: there is no room."""
        policy, size = key.rpartition(":")[0], KEY_BYTES + len(key)
        if self.held_bytes + size + len(counters) * (COUNTER_BYTES // 2) > self.limit_bytes:
            return False
        self._overflow += OVERFLOW_MARK in key
        self._put(key, Window.restored(window_ms, counters, total), now_ms, policy, size)
        return True

    def receive_all(self, rows: list[tuple[str, int, array[int], int]], now_ms: int) -> bool:
        """Do what `receive` does with many new keys at once, twice as fast; False, and nothing, when it cannot.

        Args:
            rows: key, window_ms, counters and their sum.
        """
        size = sum([KEY_BYTES + len(row[0]) + len(row[2]) * (COUNTER_BYTES // 2) for row in rows])
        windows = self.windows
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
            if OVERFLOW_MARK in key:
                self._overflow += 1
        for window_ms, keys in filed.items():
            self.timetable.file_all(keys, _last_look_ms(now_ms, window_ms))
        self.held_bytes += size
        return True

    def reap(self, now_ms: int, at_most: int) -> None:
        """Look at up to `at_most` keys that are due, and forget those that count nothing any more."""
        for _ in range(at_most):
            key = self.timetable.take(now_ms)
            if key is None:
                return
            window = self.windows[key]
            ends_at_ms = window.ends_at_ms()
            if ends_at_ms > now_ms:
                self.timetable.file(key, ends_at_ms)
            else:
                self._forget(key, window)

    def _has_room(self, policy: str, size: int) -> bool:
        return (
            self.held_bytes + size <= self._new_key_limit
            and self._policy_bytes.get(policy, 0) + size <= self._policy_limit
        )

    def _put(self, key: str, window: Window, now_ms: int, policy: str, size: int) -> Window:
        self.windows[key] = window
        self._policy_bytes[policy] = self._policy_bytes.get(policy, 0) + size
        self.held_bytes += size + (len(window) - FIRST) * (COUNTER_BYTES // 2)
        self.timetable.file(key, _last_look_ms(now_ms, window[WINDOW_MS]))
        return window

    def _forget(self, key: str, window: Window) -> None:
        policy, size = key.rpartition(":")[0], KEY_BYTES + len(key)
        del self.windows[key]
        self.owed.pop(key, None)
        if OVERFLOW_MARK in key:
            self._overflow -= 1
        self.held_bytes -= size + (len(window) - FIRST) * (COUNTER_BYTES // 2)
        left = self._policy_bytes[policy] - size
        if left:
            self._policy_bytes[policy] = left
        else:
            del self._policy_bytes[policy]


def _last_look_ms(now_ms: int, window_ms: int) -> int:
    """Return when what is counted until now has left the window."""
    return now_ms + window_ms + window_ms // 60 + 1
