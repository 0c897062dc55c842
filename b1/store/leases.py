"""What is held at a time: by whom, and until when it is taken away. Bounded, and strict when it is full.

A lease ends when its holder gives it back, or when its time is over: a holder that was lost blocks nobody for ever.
"""

from __future__ import annotations

from b1.store.base import LEASE_RETRY_MS, Balance, Charge
from b1.store.timetable import FILING_BYTES, Timetable

# A holder's string and numbers, a dictionary for a key, and their entries at their emptiest.
HOLDER_BYTES = 300 + FILING_BYTES
_TICK_MS = 1000
_REAP_PER_TAKE = 4


class Leases:
    """Holders by key; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes; beyond them nothing more can be held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._holders: dict[str, dict[str, tuple[int, int]]] = {}  # until_ms and units, oldest first
        self._timetable = Timetable(_TICK_MS)

    def __len__(self) -> int:
        return len(self._holders)

    def __repr__(self) -> str:
        return f"Leases(keys={len(self._holders)}, held={self.held_bytes}/{self.limit_bytes} B)"

    def held(self, key: str, now_ms: int) -> int:
        """Return how many units are held."""
        holders = self._holders.get(key)
        if holders is None:
            return 0
        for holder in [holder for holder, (until_ms, _) in holders.items() if until_ms <= now_ms]:
            self._drop(key, holder)
        return sum(units for _, units in holders.values())

    def fits(self, charge: Charge, now_ms: int) -> bool:
        """Say whether so many more can be held."""
        held = self.held(charge.key, now_ms)
        if charge.cost and self.held_bytes + HOLDER_BYTES + len(charge.key) > self.limit_bytes:
            return False
        return held + charge.cost <= charge.quota

    def take(self, charge: Charge, holder: str, now_ms: int) -> None:
        """Hold the charge's units, in the holder's name."""
        self.reap(now_ms, _REAP_PER_TAKE)
        holders = self._holders.setdefault(charge.key, {})
        if holder not in holders:
            self.held_bytes += HOLDER_BYTES + len(charge.key)
        holders[holder] = now_ms + charge.window_ms, charge.cost
        self._timetable.file(charge.key, now_ms + charge.window_ms)

    def give_back(self, key: str, holder: str) -> None:
        """Hold nothing any more in the holder's name."""
        if holder in self._holders.get(key, ()):
            self._drop(key, holder)

    def balance(self, charge: Charge, fits: bool, now_ms: int) -> Balance:
        """Return where the key stands; `fits` was found before anything was taken."""
        held = self.held(charge.key, now_ms)
        remaining = max(0, charge.quota - held)
        retry_ms = 0 if fits else -1 if charge.cost > charge.quota else LEASE_RETRY_MS
        renew_ms = 0 if remaining else LEASE_RETRY_MS
        return Balance(fits, held, remaining, retry_ms, renew_ms, LEASE_RETRY_MS if held else 0)

    def reap(self, now_ms: int, at_most: int) -> None:
        """Look at up to `at_most` keys whose leases may be over."""
        for _ in range(at_most):
            key = self._timetable.take(now_ms)
            if key is None:
                return
            self.held(key, now_ms)

    def _drop(self, key: str, holder: str) -> None:
        holders = self._holders[key]
        del holders[holder]
        self.held_bytes -= HOLDER_BYTES + len(key)
        if not holders:
            del self._holders[key]
