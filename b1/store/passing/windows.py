"""Windows on their way: all of them, or what was counted since.

A frame's columns: ``k`` keys, ``w`` window_ms, ``n`` numbers of counters, ``t`` totals; ``s`` (only where there is a Redis)
rows of place, is_mirror, seam, units at the seam, is_owed; ``d`` true: units that are new, and that Redis has not counted.
The blob holds index and units of all counters, i64 each.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from b1.store.base import MAX_WINDOW_MS
from b1.store.passed import Received
from b1.store.passing.budget import Budget
from b1.store.passing.frames import Frame, numbers, pack, texts
from b1.store.passing.origin import Shift
from b1.store.window import COUNTERS, Window
from b1.store.windows import KEY_BYTES, Windows

KIND = "wins"
_ITEMS = 256
_RANK_ITEMS = 2048
_CLASSES, _BITS = 16, 32
# Three numbers and punctuation, and for Redis a row of state.
_ITEM_BYTES = 48
_MOST = 2**53


class UnitDebts(Protocol):
    """Whoever tells Redis about units that a window cannot keep apart from those it has."""

    def owe_units(self, key: str, window_ms: int, units: list[tuple[int, int]]) -> None:
        """Note units, by counter."""
        ...


class WindowsOut:
    """Writes the frames of a table.

    Args:
        news: only what was counted since `Windows.watch`; else everything.
        has_redis: Redis counts too, so it is said what it knows.
    """

    def __init__(self, windows: Windows, *, news: bool, has_redis: bool) -> None:
        self._windows = windows
        self._news = dict(windows.news or {}) if news else None
        self._has_redis = has_redis
        self._todo = [key for key, _ in windows.items()] if self._news is None else list(self._news)
        self.size_bytes = windows.held_bytes - len(windows) * (KEY_BYTES - _ITEM_BYTES)
        """About what all of it will take, without state."""

    def rank(self) -> Iterator[None]:
        """Put the most used first, measured by the fullest of the same policy: nobody knows the quotas here.

        Of those that are alike the ones with more units come first, roughly: where nobody called twice, all are fullest.
        """
        most: dict[str, int] = {}
        found: list[tuple[str, str, int]] = []
        for start in range(0, len(self._todo), _RANK_ITEMS):
            for key in self._todo[start : start + _RANK_ITEMS]:
                window = self._get(key)
                if window is not None:
                    policy = key.rpartition(":")[0]
                    found.append((key, policy, max(1, window.total)))
                    most[policy] = max(most.get(policy, 1), window.total)
            yield
        classes: list[list[str]] = [[] for _ in range((_CLASSES + 1) * _BITS)]
        for start in range(0, len(found), _RANK_ITEMS):
            for key, policy, total in found[start : start + _RANK_ITEMS]:
                unused = _CLASSES - total * _CLASSES // most[policy]
                classes[(unused + 1) * _BITS - min(_BITS, total.bit_length())].append(key)
            yield
        self._todo = [key for keys in classes for key in keys]

    def frames(self, budget: Budget, now_ms: int, *, spare_bytes: int = 0) -> Iterator[list[bytes]]:
        """Yield frames; with `spare_bytes` what does not fit stays for the next call, else it is left out."""
        rest: list[str] | None = [] if spare_bytes else None
        for start in range(0, len(self._todo), _ITEMS):
            yield budget.fit(
                "windows",
                self._todo[start : start + _ITEMS],
                lambda keys: self._encode(keys, now_ms),
                spare_bytes=spare_bytes,
                rest=rest,
            )
        self._todo = rest or []

    def _encode(self, keys: Sequence[str], now_ms: int) -> tuple[bytes, int]:
        found = [(key, window) for key in keys if (window := self._get(key)) is not None and _counts(window, now_ms)]
        fields: dict[str, Any] = {
            "k": [key for key, _ in found],
            "w": [window.window_ms for _, window in found],
            "n": [len(window.counters) // 2 for _, window in found],
            "t": [window.total for _, window in found],
            "d": self._news is not None,
        }
        if self._news is None:
            if self._windows.news is not None:
                for key, _ in found:
                    self._windows.news.pop(key, None)
            if self._has_redis:
                owed = self._windows.owed
                fields["s"] = [
                    [place, int(window.is_mirror), *window.seam, int(key in owed)]
                    for place, (key, window) in enumerate(found)
                ]
        return pack(KIND, fields, b"".join([window.counters.tobytes() for _, window in found])), len(found)

    def _get(self, key: str) -> Window | None:
        return self._windows.get(key) if self._news is None else self._news.get(key)


class WindowsIn:
    """Reads the frames into a table.

    Args:
        debts: who tells Redis; None without one.
        is_owed: what comes was never counted in a Redis.
    """

    def __init__(self, windows: Windows, shift: Shift, debts: UnitDebts | None, *, is_owed: bool) -> None:
        self._windows = windows
        self._shift = shift
        self._debts = debts
        self._is_owed = is_owed

    def take(self, frame: Frame, now_ms: int) -> list[Received]:
        """Take all windows of a frame.

        Raises:
            ValueError: it does not add up, and nothing was taken.
        """
        keys = texts(frame.fields, "k")
        lengths_ms = numbers(frame.fields, "w", len(keys), least=1, most=MAX_WINDOW_MS)
        counts = numbers(frame.fields, "n", len(keys), least=1, most=COUNTERS)
        totals = numbers(frame.fields, "t", len(keys), most=_MOST)
        states = _states(frame.fields.get("s", []), len(keys)) if self._debts is not None else {}
        every = array("q")
        every.frombytes(frame.blob)
        if len(every) != 2 * sum(counts):
            raise ValueError(f"there are {len(every)} numbers for {sum(counts)} counters")
        rows: list[tuple[str, int, array[int], int]] = []
        at = 0
        for key, window_ms, count, total in zip(keys, lengths_ms, counts, totals, strict=True):
            rows.append((key, window_ms, every[at : at + 2 * count], total))
            at += 2 * count
        is_owed = self._debts is not None and (self._is_owed or bool(frame.fields.get("d")))
        if not is_owed and not self._shift.ms and self._windows.restore(rows, now_ms):
            found = [Received.TAKEN] * len(rows)
        else:
            found = [self._take(*row, now_ms, is_owed) for row in rows]
        for place, state in states.items():
            if found[place] is Received.TAKEN:
                self._resume(keys[place], *state)
        return found

    def _take(self, key: str, window_ms: int, counters: array[int], total: int, now_ms: int, is_owed: bool) -> Received:
        if self._shift.ms:
            counters = _shifted(counters, window_ms, self._shift)
        rest = self._windows.receive(key, window_ms, counters, total, now_ms, is_owed=is_owed)
        if rest is None:
            return Received.NO_ROOM
        if rest and self._debts is not None:
            self._debts.owe_units(key, window_ms, rest)
        return Received.TAKEN

    def _resume(self, key: str, is_mirror: int, seam: int, seam_units: int, is_owed: int) -> None:
        """Go on mirroring Redis; it may have lost its data since the other process last heard of it."""
        window = self._windows.get(key)
        if window is None:
            return
        window.is_mirror = bool(is_mirror)
        if seam >= 0:
            window.set_seam(self._shift.counter(seam, window.window_ms), seam_units)
        if is_mirror or is_owed:
            self._windows.owed[key] = None


def _counts(window: Window, now_ms: int) -> bool:
    return bool(window.total) and window.ends_at_ms() > now_ms


def _shifted(counters: array[int], window_ms: int, shift: Shift) -> array[int]:
    moved: dict[int, int] = {}
    for counter, units in zip(counters[::2], counters[1::2], strict=True):
        place = shift.counter(counter, window_ms)
        moved[place] = moved.get(place, 0) + units
    return array("q", [number for pair in moved.items() for number in pair])


def _states(rows: Any, count: int) -> dict[int, list[int]]:
    if not isinstance(rows, list):
        raise ValueError("the states are no list")
    states = {}
    for row in rows:
        place, *state = numbers({"s": row[:5]}, "s", 5, least=-1)
        if not 0 <= place < count:
            raise ValueError(f"a state is for window {place} of {count}")
        states[place] = state
    return states
