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
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

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


# What stands before the counters.
TOTAL, WINDOW_MS, IS_MIRROR, _SEAM, _SEAM_UNITS, FIRST = range(6)
if TYPE_CHECKING:
    _Numbers = array[int]
else:
    _Numbers = array  # cannot be subscripted before Python 3.12


class Window(_Numbers):
    """Units of one key, by counter.

    One flat array and no object beside it: sixty thousand windows are walked by a full collection in 2 ms instead of 10,
    and whoever sprays keys decides when that is. ``[total, window_ms, is_mirror, seam, units at the seam, i0, n0, i1, n1,
    ...]``, from `FIRST` on counters: index and units in turn, oldest first. Whoever is in a hurry reads it directly.

    Attributes:
        total: sum of the units.
        is_mirror: what lies before the seam is what Redis counts.
    """

    __slots__ = ()

    def __new__(cls, window_ms: int) -> Window:
        return super().__new__(cls, "q", (0, window_ms, 0, _NO_SEAM, 0))  # type: ignore[return-value]  # it gives cls

    def __repr__(self) -> str:
        return f"Window(total={self.total}, counters={len(self.counters) // 2}, window_ms={self.window_ms})"

    @classmethod
    def restored(cls, window_ms: int, counters: array[int], total: int) -> Window:
        """Return a window with these counters; `total` is the sum of their units."""
        window = array.__new__(cls, "q", (total, window_ms, 0, _NO_SEAM, 0))
        window.extend(counters)
        return window  # type: ignore[return-value]  # it gives cls

    @property
    def total(self) -> int:
        return self[TOTAL]

    @property
    def window_ms(self) -> int:
        return self[WINDOW_MS]

    @property
    def counters(self) -> array[int]:
        """A copy of the counters."""
        return self[FIRST:]

    @property
    def is_mirror(self) -> bool:
        return bool(self[IS_MIRROR])

    @is_mirror.setter
    def is_mirror(self, is_mirror: bool) -> None:
        self[IS_MIRROR] = is_mirror

    def copy(self) -> Window:
        """Return an independent window with the same units."""
        return Window.restored(self[WINDOW_MS], self[FIRST:], self[TOTAL])

    def restart(self, window_ms: int) -> None:
        """Forget all units, and count windows of another length from now on."""
        self[:] = array("q", (0, window_ms, 0, _NO_SEAM, 0))

    @property
    def known(self) -> int:
        """Units before the seam: what Redis had counted when it was last heard."""
        seam = self[_SEAM]
        if seam == _NO_SEAM:
            return self[TOTAL]
        since = self.total_since(seam)
        # What is left of the units at the seam is known; they leave the window with their counter.
        at_seam = self[_SEAM_UNITS] if since and seam in self[FIRST::2] else 0
        return self[TOTAL] - since + at_seam

    def advance(self, now_ms: int) -> None:
        """Drop the units that left the window by `now_ms`."""
        if len(self) == FIRST:
            return
        current = now_ms * 60 // self[WINDOW_MS]
        if self[-2] - current >= COUNTERS:
            self.restart(self[WINDOW_MS])
            return
        oldest = current - 60
        if self[FIRST] >= oldest:
            return
        end, gone = FIRST, 0
        while end < len(self) and self[end] < oldest:
            gone += self[end + 1]
            end += 2
        self[TOTAL] -= gone
        del self[FIRST:end]

    def add(self, units: int, now_ms: int, *, may_grow: bool = True) -> None:
        """Count `units` now.

        With ``may_grow=False`` the newest counter is dated to now instead of a new one being opened: its units come
        back later than they had to, never earlier.
        """
        current = now_ms * 60 // self[WINDOW_MS]
        self[TOTAL] += units
        if len(self) > FIRST and (self[-2] >= current or not may_grow):
            self[-2] = max(current, self[-2])
            self[-1] += units
        else:
            self.append(current)
            self.append(units)

    def open_seam(self, now_ms: int) -> None:
        """What is added from now on is owed to Redis."""
        if self[_SEAM] != _NO_SEAM:
            return
        current = now_ms * 60 // self[WINDOW_MS]
        if len(self) > FIRST and self[-2] >= current:
            self.set_seam(self[-2], self[-1])
        else:
            self.set_seam(current, 0)

    @property
    def seam(self) -> tuple[int, int]:
        """The counter at which the seam is, below 0 for none, and the units in it that Redis knows."""
        return self[_SEAM], self[_SEAM_UNITS]

    def set_seam(self, counter: int, units: int) -> None:
        """Put the seam where another process had it."""
        self[_SEAM], self[_SEAM_UNITS] = counter, units

    def merge(self, counters: array[int]) -> None:
        """Count the units of another window of the same length too."""
        merged = dict(zip(self[FIRST::2], self[FIRST + 1 :: 2], strict=True))
        for counter, units in zip(counters[::2], counters[1::2], strict=True):
            merged[counter] = merged.get(counter, 0) + units
        self.replace(merged)

    def replace(self, counters: Mapping[int, int]) -> None:
        """Count these units and no others."""
        self[FIRST:] = array("q", [number for pair in sorted(counters.items()) for number in pair])
        self[TOTAL] = sum(counters.values())

    def merge_owed(self, counters: array[int]) -> list[tuple[int, int]]:
        """Count the units of another window, which Redis has not; return those that the seam cannot tell apart.

        Args:
            counters: of a window of the same length, not empty.
        """
        first, is_empty = counters[0], len(self) == FIRST
        if self[_SEAM] == _NO_SEAM and (is_empty or self[-2] <= first):
            self.set_seam(first, self[-1] if not is_empty and self[-2] == first else 0)
        self.merge(counters)
        pairs, seam = zip(counters[::2], counters[1::2], strict=True), self[_SEAM]
        return [pair for pair in pairs if seam == _NO_SEAM or pair[0] < seam]

    def close_seam(self) -> None:
        """Redis knows all of it now."""
        self[_SEAM] = _NO_SEAM
        self[IS_MIRROR] = 1

    def parts(self, now_ms: int) -> list[Part]:
        """Return the units, oldest first, apart by who counted them.

        Ages are the youngest possible: in a store whose counters begin at other moments a unit comes back up to W/60
        later than here, never earlier.
        """
        seam, known_at_seam, is_mirror, found = self[_SEAM], self[_SEAM_UNITS], self[IS_MIRROR], []
        for place in range(FIRST, len(self), 2):
            counter, units = self[place], self[place + 1]
            known = units
            if seam != _NO_SEAM and counter >= seam:
                known, known_at_seam = min(units, known_at_seam), 0
            age_ms = max(0, now_ms - opens_at_ms(counter + 1, self[WINDOW_MS]) + 1)
            found.append(Part(age_ms, known if is_mirror else 0, units - known))
        return found

    def total_since(self, counter: int) -> int:
        """Return the units counted in `counter` and later ones."""
        return sum(self[place + 1] for place in range(FIRST, len(self), 2) if self[place] >= counter)

    def drop_oldest(self, units: int) -> None:
        """Uncount up to `units`, oldest first."""
        end = FIRST
        while units > 0 and end < len(self):
            part = min(units, self[end + 1])
            units -= part
            self[TOTAL] -= part
            self[end + 1] -= part
            if self[end + 1] == 0:
                end += 2
        del self[FIRST:end]

    def take_back(self, units: int) -> None:
        """Uncount up to `units`, newest first."""
        while units > 0 and len(self) > FIRST:
            part = min(units, self[-1])
            units -= part
            self[TOTAL] -= part
            self[-1] -= part
            if self[-1] == 0:
                del self[-2:]

    def freed_at_ms(self, units: int) -> int:
        """Return the moment at which `units` of those counted now have left the window; at least 1, at most all."""
        place = FIRST
        while (units := units - self[place + 1]) > 0:
            place += 2
        return opens_at_ms(self[place] + COUNTERS, self[WINDOW_MS])

    def ends_at_ms(self) -> int:
        """Return the moment at which nothing is counted any more; 0 for an empty window."""
        return opens_at_ms(self[-2] + COUNTERS, self[WINDOW_MS]) if len(self) > FIRST else 0
