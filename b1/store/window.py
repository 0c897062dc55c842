"""One sliding window: 61 counters of W/60 each, of which only those that are not zero are kept.

Pure arithmetic, no clock. A unit spent at time t sits in counter ``t * 60 // W``; the window is the current counter and
the 60 before it, the oldest counted whole. So no window of length W ever holds more than the quota, and a unit comes
back at the latest W/60 after it is W old.

When the clock goes back, the newest counter stays the current one: nothing is forgotten and nothing comes back early.
When it goes back by more than a whole window it was set, not adjusted, and the window starts empty.
"""

from __future__ import annotations

from array import array

COUNTERS = 61


def opens_at_ms(counter: int, window_ms: int) -> int:
    """Return the first millisecond that belongs to `counter`."""
    return -(-counter * window_ms // 60)


class Window:
    """Units of one key, by counter.

    Attributes:
        counters: index and units in turn, oldest first: ``[i0, n0, i1, n1, ...]``.
        total: sum of the units.
    """

    __slots__ = ("counters", "total", "window_ms")

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.counters = array("q")
        self.total = 0

    def __repr__(self) -> str:
        return f"Window(total={self.total}, counters={len(self.counters) // 2}, window_ms={self.window_ms})"

    def copy(self) -> Window:
        """Return an independent window with the same units."""
        twin = Window(self.window_ms)
        twin.counters = self.counters[:]
        twin.total = self.total
        return twin

    def restart(self, window_ms: int) -> None:
        """Forget all units, and count windows of another length from now on."""
        del self.counters[:]
        self.total = 0
        self.window_ms = window_ms

    def advance(self, now_ms: int) -> None:
        """Drop the units that left the window by `now_ms`."""
        counters = self.counters
        if not counters:
            return
        current = now_ms * 60 // self.window_ms
        if counters[-2] - current >= COUNTERS:
            self.restart(self.window_ms)
            return
        oldest = current - 60
        if counters[0] >= oldest:
            return
        gone = 0
        for place in range(0, len(counters), 2):
            if counters[place] >= oldest:
                break
            self.total -= counters[place + 1]
            gone = place + 2
        del counters[:gone]

    def add(self, units: int, now_ms: int, *, may_grow: bool = True) -> None:
        """Count `units` now.

        With ``may_grow=False`` the newest counter is dated to now instead of a new one being opened: its units come
        back later than they had to, never earlier.
        """
        counters = self.counters
        current = now_ms * 60 // self.window_ms
        self.total += units
        if counters and (counters[-2] >= current or not may_grow):
            counters[-2] = max(current, counters[-2])
            counters[-1] += units
        else:
            counters.append(current)
            counters.append(units)

    def take_back(self, units: int) -> None:
        """Uncount up to `units`, newest first."""
        counters = self.counters
        while units > 0 and counters:
            part = min(units, counters[-1])
            units -= part
            self.total -= part
            counters[-1] -= part
            if counters[-1] == 0:
                del counters[-2:]

    def freed_at_ms(self, units: int) -> int:
        """Return the moment at which `units` of those counted now have left the window; at least 1, at most all."""
        counters = self.counters
        place = 0
        while (units := units - counters[place + 1]) > 0:
            place += 2
        return opens_at_ms(counters[place] + COUNTERS, self.window_ms)

    def ends_at_ms(self) -> int:
        """Return the moment at which nothing is counted any more; 0 for an empty window."""
        if not self.counters:
            return 0
        return opens_at_ms(self.counters[-2] + COUNTERS, self.window_ms)
