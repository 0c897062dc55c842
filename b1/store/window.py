"""One sliding window: 61 counters of W/60 each, of which only those that are not zero are kept.

Pure arithmetic, no clock. A unit spent at time t sits in counter ``t * 60 // W``; the window is the current counter and
the 60 before it, the oldest counted whole. So no window of length W ever holds more than the quota, and a unit comes
back at the latest W/60 after it is W old.

When the clock goes back, the newest counter stays the current one: nothing is forgotten and nothing comes back early.
When it goes back by more than a whole window it was set, not adjusted, and the window starts empty.

A window may stand in for one in Redis. Its seam divides what Redis has counted from what was counted here while Redis was
away, so that the second can be added there later and the first is not added again.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

COUNTERS = 61
_NO_SEAM = -1


class Part(NamedTuple):
    """The units of one counter, for another store.

    Attributes:
        age_ms: the least that they can be old.
        known: units that Redis had counted when it was last heard.
        owed: units that only this process has counted.
    """

    age_ms: int
    known: int
    owed: int


def opens_at_ms(counter: int, window_ms: int) -> int:
    """Return the first millisecond that belongs to `counter`."""
    return -(-counter * window_ms // 60)


class Window:
    """Units of one key, by counter.

    Attributes:
        counters: index and units in turn, oldest first: ``[i0, n0, i1, n1, ...]``.
        total: sum of the units.
        is_mirror: what lies before the seam is what Redis counts.
    """

    __slots__ = ("_seam", "_seam_units", "counters", "is_mirror", "total", "window_ms")

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.counters = array("q")
        self.total = 0
        self.is_mirror = False
        self._seam = _NO_SEAM
        self._seam_units = 0

    def __repr__(self) -> str:
        return f"Window(total={self.total}, counters={len(self.counters) // 2}, window_ms={self.window_ms})"

    @classmethod
    def restored(cls, window_ms: int, counters: array[int], total: int) -> Window:
        """Return a window with these counters; `total` is the sum of their units."""
        window = cls.__new__(cls)  # thousands are made at once; __init__ would make as many arrays for nothing
        window.window_ms = window_ms
        window.counters = counters
        window.total = total
        window.is_mirror = False
        window._seam = _NO_SEAM
        window._seam_units = 0
        return window

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
        self.is_mirror = False
        self._seam = _NO_SEAM

    @property
    def known(self) -> int:
        """Units before the seam: what Redis had counted when it was last heard."""
        if self._seam == _NO_SEAM:
            return self.total
        since = self.total_since(self._seam)
        # What is left of the units at the seam is known; they leave the window with their counter.
        at_seam = self._seam_units if since and self._seam in self.counters[::2] else 0
        return self.total - since + at_seam

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

    def open_seam(self, now_ms: int) -> None:
        """What is added from now on is owed to Redis."""
        if self._seam != _NO_SEAM:
            return
        current, counters = now_ms * 60 // self.window_ms, self.counters
        if counters and counters[-2] >= current:
            self._seam, self._seam_units = counters[-2], counters[-1]
        else:
            self._seam, self._seam_units = current, 0

    @property
    def seam(self) -> tuple[int, int]:
        """The counter at which the seam is, below 0 for none, and the units in it that Redis knows."""
        return self._seam, self._seam_units

    def set_seam(self, counter: int, units: int) -> None:
        """Put the seam where another process had it."""
        self._seam, self._seam_units = counter, units

    def merge(self, counters: array[int]) -> None:
        """Count the units of another window of the same length too."""
        merged = dict(zip(self.counters[::2], self.counters[1::2], strict=True))
        for counter, units in zip(counters[::2], counters[1::2], strict=True):
            merged[counter] = merged.get(counter, 0) + units
        self.counters = array("q", [number for pair in sorted(merged.items()) for number in pair])
        self.total = sum(merged.values())

    def merge_owed(self, counters: array[int]) -> list[tuple[int, int]]:
        """Count the units of another window, which Redis has not; return those that the seam cannot tell apart.

        Args:
            counters: of a window of the same length, not empty.
        """
        first = counters[0]
        if self._seam == _NO_SEAM and (not self.counters or self.counters[-2] <= first):
            known = self.counters[-1] if self.counters and self.counters[-2] == first else 0
            self._seam, self._seam_units = first, known
        self.merge(counters)
        pairs = zip(counters[::2], counters[1::2], strict=True)
        return [pair for pair in pairs if self._seam == _NO_SEAM or pair[0] < self._seam]

    def close_seam(self) -> None:
        """Redis knows all of it now."""
        self._seam = _NO_SEAM
        self.is_mirror = True

    def parts(self, now_ms: int) -> list[Part]:
        """Return the units, oldest first, apart by who counted them.

        Ages are the youngest possible: in a store whose counters begin at other moments a unit comes back up to W/60
        later than here, never earlier.
        """
        known_at_seam, found = self._seam_units, []
        for place in range(0, len(self.counters), 2):
            counter, units = self.counters[place], self.counters[place + 1]
            known = units
            if self._seam != _NO_SEAM and counter >= self._seam:
                known, known_at_seam = min(units, known_at_seam), 0
            age_ms = max(0, now_ms - opens_at_ms(counter + 1, self.window_ms) + 1)
            found.append(Part(age_ms, known if self.is_mirror else 0, units - known))
        return found

    def total_since(self, counter: int) -> int:
        """Return the units counted in `counter` and later ones."""
        counters = self.counters
        return sum(counters[place + 1] for place in range(0, len(counters), 2) if counters[place] >= counter)

    def drop_oldest(self, units: int) -> None:
        """Uncount up to `units`, oldest first."""
        counters, gone = self.counters, 0
        while units > 0 and gone < len(counters):
            part = min(units, counters[gone + 1])
            units -= part
            self.total -= part
            counters[gone + 1] -= part
            if counters[gone + 1] == 0:
                gone += 2
        del counters[:gone]

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
