"""When to look at which key: expiry without sweeps.

Each key is filed once, under a tick at which it may have ended. Whoever takes it out either forgets the key or files it
again, so the work is O(1) per key and lifetime, and a use of the key in between costs nothing here.
"""

from __future__ import annotations

import heapq

# A list slot, and its share of the list's spare room and of the tick's own entry.
FILING_BYTES = 16


class Timetable:
    """Keys by the tick at which somebody should look at them.

    Args:
        tick_ms: how exact; keys come due up to this much late.
    """

    def __init__(self, tick_ms: int) -> None:
        self._tick_ms = tick_ms
        self._filed: dict[int, list[str]] = {}
        self._ticks: list[int] = []
        self.next_ms = 0
        """Nothing is due before this moment; compare it first, it is the cheap test."""

    def __repr__(self) -> str:
        return f"Timetable(ticks={len(self._ticks)}, next_ms={self.next_ms})"

    def file(self, key: str, at_ms: int) -> None:
        """Have `key` come due at or just after `at_ms`."""
        tick = at_ms // self._tick_ms + 1
        keys = self._filed.get(tick)
        if keys is None:
            self._filed[tick] = [key]
            heapq.heappush(self._ticks, tick)
            self.next_ms = self._ticks[0] * self._tick_ms
        else:
            keys.append(key)

    def file_all(self, keys: list[str], at_ms: int) -> None:
        """Have all of `keys` come due at or just after `at_ms`."""
        if keys:
            self.file(keys[0], at_ms)
            self._filed[at_ms // self._tick_ms + 1] += keys[1:]

    def take(self, now_ms: int) -> str | None:
        """Take out one key that is due, or None."""
        if not self._ticks or now_ms < self.next_ms:
            return None
        tick = self._ticks[0]
        keys = self._filed[tick]
        key = keys.pop()
        if not keys:
            del self._filed[tick]
            heapq.heappop(self._ticks)
            if self._ticks:
                self.next_ms = self._ticks[0] * self._tick_ms
        return key
