"""All sliding windows of one process: taking from several at once, for all or nothing; where they lie is the shelf's.

Behind a Redis store the table mirrors what Redis counts for this process's callers, and keeps a list of the keys whose
windows Redis does not fully know.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from b1.store.balance import balance_of, share_of
from b1.store.base import Balance, Charge
from b1.store.passed import NEWS
from b1.store.shelf import COUNTER_BYTES, REAP_PER_CALL, Shelf
from b1.store.shelf import KEY_BYTES as KEY_BYTES
from b1.store.shelf import OVERFLOW_WINDOWS as OVERFLOW_WINDOWS
from b1.store.window import COUNTERS, FIRST, IS_MIRROR, TOTAL, WINDOW_MS, Part, Window

# The oldest counters may have left the window in Redis already, whose counters begin at other moments.
LIVELY_COUNTERS = 57
# A named tuple made by its own constructor costs twice as much, and several are made for every request.
_new = tuple.__new__


class Windows:
    """A bounded table of windows.

    Shared state, touched only between two awaits of one event loop; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes; see `Shelf`.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.shelf = Shelf(limit_bytes)
        self.owed = self.shelf.owed
        """Keys whose windows hold units that Redis has to be told of; see `mirror` and `hand_over`."""
        self.news: dict[str, Window] | None = None
        """What was counted here since `watch`, by key; None when nobody asked."""
        self.unnoted = 0
        """Spends that `news` had no room for."""
        self._windows = self.shelf.windows
        self._timetable = self.shelf.timetable

    def __len__(self) -> int:
        return len(self._windows)

    def __repr__(self) -> str:
        return f"Windows({self.shelf!r}, owed={len(self.owed)})"

    @property
    def limit_bytes(self) -> int:
        return self.shelf.limit_bytes

    @property
    def held_bytes(self) -> int:
        return self.shelf.held_bytes

    @property
    def overflowed(self) -> int:
        """How many spends went to an overflow window because there was no room."""
        return self.shelf.overflowed

    @property
    def salt(self) -> bytes:
        """What overflow windows are chosen with."""
        return self.shelf.salt

    @salt.setter
    def salt(self, salt: bytes) -> None:
        self.shelf.salt = salt

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
            self.shelf.reap(now_ms, REAP_PER_CALL)
        allowed = True
        found = []
        for charge in charges:
            home = key = charge.key
            window = self._windows.get(key)
            if window is None:
                home = self.shelf.home_of(key)
                window = self._windows.get(home)
            if window is None or window[WINDOW_MS] != charge.window_ms:
                # What was counted for another window length says nothing about this one.
                window, used = None, 0
            else:
                self.shelf.advance(window, now_ms)
                used = window[TOTAL]
            if share > 1:
                charge = share_of(charge, window, share)
            fits = used + charge.cost <= charge.quota
            if not fits and not charge.shadow:
                allowed = False
            found.append((charge, home, window, fits))
        takes = commit and (allowed or is_forced)
        balances = []
        for charge, home, window, fits in found:
            if takes and charge.cost and (fits or is_forced):
                fits = True
                window = self._add(charge, home, now_ms, is_stand_in=is_stand_in)
            balances.append(balance_of(charge, window, fits, now_ms))
        return allowed or is_forced, tuple(balances)

    def spend_at_once(self, charges: Sequence[Charge], now_ms: int) -> tuple[Balance, ...] | None:
        """Take from all charges if every window is there and something remains of every quota; None, and nothing, where
        `spend` has to be asked.

        This is what most requests need, at half the cost of the general way.
        """
        shelf = self.shelf
        if now_ms >= self._timetable.next_ms or self.news is not None or shelf.held_bytes >= shelf.limit_bytes:
            return None
        windows, balances = self._windows, []
        window_ms = current = reset_ms = 0
        for charge in charges:
            window = windows.get(charge.key)
            if window is None or window[WINDOW_MS] != charge.window_ms:
                break
            if window_ms != charge.window_ms:
                window_ms = charge.window_ms
                current = now_ms * 60 // window_ms
                reset_ms = -((current + COUNTERS) * window_ms // -60) - now_ms
            cost = charge.cost
            if len(window) > FIRST and (window[FIRST] < current - 60 or window[-2] > current):
                if window[-2] > current:
                    break
                shelf.advance(window, now_ms)
            total = window[TOTAL] + cost
            remaining = charge.quota - total
            if remaining < 1 or not cost:
                break
            if window[-2] == current and len(window) > FIRST:
                window[-1] += cost
            else:
                window.append(current)
                window.append(cost)
                shelf.held_bytes += COUNTER_BYTES
            window[TOTAL] = total
            balances.append(_new(Balance, (True, total, remaining, 0, 0, reset_ms)))
        else:
            return tuple(balances)
        for charge, _ in zip(charges, balances, strict=False):
            self._take_back(windows[charge.key], charge.cost)
        return None

    def refund(self, charges: Sequence[Charge], now_ms: int) -> None:
        """Give each charge's cost back, newest units first."""
        for charge in charges:
            home = self.shelf.home_of(charge.key)
            window = self._windows.get(home)
            if window is None or window[WINDOW_MS] != charge.window_ms:
                continue
            self.shelf.advance(window, now_ms)
            self._take_back(window, charge.cost)
            noted = self.news.get(home) if self.news else None
            if noted is not None:
                noted.take_back(charge.cost)

    def follow(self, charges: Sequence[Charge], balances: Sequence[Balance], now_ms: int, *, takes: bool) -> None:
        """Follow what Redis answered about windows.

        Mostly that is a larger number: nothing ran out, nobody else spent, and the newest counter is the present one.
        """
        windows, owed = self._windows, self.owed
        for charge, balance in zip(charges, balances, strict=True):
            key, used = charge.key, balance[1]
            spent = charge.cost if takes and balance[0] else 0
            window = windows.get(key)
            current = now_ms * 60 // charge.window_ms
            if (
                window is None
                or len(window) == FIRST
                or window[TOTAL] + spent != used
                or window[-2] != current
                or window[FIRST] < current - 60
                or window[WINDOW_MS] != charge.window_ms
                or not window[IS_MIRROR]
                or key in owed
            ):
                self.mirror(charge, used, spent, now_ms)
                continue
            window[-1] += spent
            window[TOTAL] = used

    def mirror(self, charge: Charge, used: int, spent: int, now_ms: int) -> None:
        """Follow what Redis counts: `used` units now, `spent` of them by this call.

        Units that others spent are dated now, so they never come back early here. When Redis has nothing although it
        should, its data was lost: the window stays as it is, and is owed.
        """
        key = charge.key
        window = self._windows.get(key)
        if window is None:
            if used == 0:
                return
            window = self.shelf.open_own(key, charge.window_ms, now_ms)
            if window is None:
                return
        before = len(window)
        if window[WINDOW_MS] != charge.window_ms:
            window.restart(charge.window_ms)
        window.advance(now_ms)
        if used == spent and window.total_since(now_ms * 60 // window[WINDOW_MS] - LIVELY_COUNTERS):
            self.owed[key] = None
        elif key not in self.owed:
            window.is_mirror = True
            if window[TOTAL] + spent > used:
                window.drop_oldest(window[TOTAL] + spent - used)
        missing = max(spent, used - window[TOTAL])
        if missing:
            window.add(missing, now_ms, may_grow=self.shelf.may_grow)
        self.recount(window, before)

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
        self.shelf.advance(window, now_ms)
        parts = window.parts(now_ms)
        window.close_seam()
        return (window[WINDOW_MS], parts) if window[TOTAL] else None

    def reap(self, now_ms: int, at_most: int) -> None:
        """Look at up to `at_most` keys that are due, and forget those that count nothing any more."""
        self.shelf.reap(now_ms, at_most)

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
            if not self.shelf.receive(key, window_ms, counters, total, now_ms):
                return None
            if is_owed:
                self._windows[key].set_seam(counters[0], 0)
                self.owed[key] = None
            return []
        if window[WINDOW_MS] != window_ms:
            return None
        before = len(window)
        rest: list[tuple[int, int]] = []
        if is_owed:
            rest = window.merge_owed(counters)
            self.owed[key] = None
        else:
            window.merge(counters)
        self.recount(window, before)
        return rest

    def restore(self, rows: list[tuple[str, int, array[int], int]], now_ms: int) -> bool:
        """Do what `receive` does with many new keys at once, twice as fast; False, and nothing, when it cannot.

        Args:
            rows: key, window_ms, counters and their sum.
        """
        return self.shelf.receive_all(rows, now_ms)

    def _add(self, charge: Charge, home: str, now_ms: int, *, is_stand_in: bool) -> Window:
        window = self._windows.get(charge.key)
        is_own = window is not None
        if window is None:
            window = self.shelf.open(charge.key, home, charge.window_ms, now_ms)
            is_own = charge.key in self._windows
        before = len(window)
        if window[WINDOW_MS] != charge.window_ms:
            window.restart(charge.window_ms)
        if is_stand_in and is_own:  # units in a shared window are nobody's in particular
            window.open_seam(now_ms)
            self.owed[charge.key] = None
        window.add(charge.cost, now_ms, may_grow=self.shelf.may_grow)
        self.recount(window, before)
        if self.news is not None:
            self._note(self.news, charge, charge.key if is_own else self.shelf.home_of(charge.key), now_ms)
        return window

    def _note(self, news: dict[str, Window], charge: Charge, key: str, now_ms: int) -> None:
        noted = news.get(key)
        if noted is None or noted[WINDOW_MS] != charge.window_ms:
            if len(news) >= NEWS:
                self.unnoted += 1
                return
            noted = news[key] = Window(charge.window_ms)
        noted.advance(now_ms)
        noted.add(charge.cost, now_ms)

    def _take_back(self, window: Window, units: int) -> None:
        before = len(window)
        window.take_back(units)
        self.recount(window, before)

    def recount(self, window: Window, before: int) -> None:
        """Account for a window that had `before` numbers."""
        self.shelf.held_bytes += (len(window) - before) * (COUNTER_BYTES // 2)
