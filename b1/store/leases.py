"""What is held at a time: by whom, and until when it is taken away. Bounded, and strict when it is full.

A lease ends when its holder gives it back, or when its time is over: a holder that was lost blocks nobody for ever. Keys
without holders are gone at once, so nothing is left of callers who came and went.
"""

from __future__ import annotations

from collections import OrderedDict

from b1.store.base import LEASE_RETRY_MS, Balance, Charge

# A holder's string and numbers, the objects of a key, and their entries in two dictionaries at their emptiest.
HOLDER_BYTES = 560
_REAP_PER_TAKE = 4
_NEVER_MS = 2**62


class _Held:
    """Who holds a key.

    Attributes:
        holders: until_ms and units.
        units: of all of them.
        first_ms: no lease ends before this moment.
    """

    __slots__ = ("first_ms", "holders", "units")

    def __init__(self) -> None:
        self.holders: dict[str, tuple[int, int]] = {}
        self.units = 0
        self.first_ms = _NEVER_MS


class Leases:
    """Holders by key; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes; beyond them nothing more can be held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._received: list[tuple[str, str]] = []  # as many as a hand-over had room for
        self._held: OrderedDict[str, _Held] = OrderedDict()  # in the order in which somebody last looked at them

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"Leases(keys={len(self._held)}, held={self.held_bytes}/{self.limit_bytes} B)"

    def held(self, key: str, now_ms: int) -> int:
        """Return how many units are held."""
        held = self._held.get(key)
        if held is None:
            return 0
        if held.first_ms <= now_ms:
            for holder in [holder for holder, (until_ms, _) in held.holders.items() if until_ms <= now_ms]:
                self._drop(key, held, holder)
            held.first_ms = min((until_ms for until_ms, _ in held.holders.values()), default=_NEVER_MS)
        return held.units

    def fits(self, charge: Charge, now_ms: int) -> bool:
        """Say whether so many more can be held."""
        held = self.held(charge.key, now_ms)
        if charge.cost and self.held_bytes + HOLDER_BYTES + len(charge.key) > self.limit_bytes:
            return False
        return held + charge.cost <= charge.quota

    def take(self, charge: Charge, holder: str, now_ms: int) -> None:
        """Hold the charge's units, in the holder's name."""
        self._reap(now_ms)
        self._put(charge.key, holder, now_ms + charge.window_ms, charge.cost)

    def give_back(self, key: str, holder: str) -> None:
        """Hold nothing any more in the holder's name."""
        held = self._held.get(key)
        if held is not None and holder in held.holders:
            self._drop(key, held, holder)

    def balance(self, charge: Charge, fits: bool, now_ms: int) -> Balance:
        """Return where the key stands; `fits` was found before anything was taken."""
        held = self.held(charge.key, now_ms)
        remaining = max(0, charge.quota - held)
        retry_ms = 0 if fits else -1 if charge.cost > charge.quota else LEASE_RETRY_MS
        renew_ms = 0 if remaining else LEASE_RETRY_MS
        return Balance(fits, held, remaining, retry_ms, renew_ms, LEASE_RETRY_MS if held else 0)

    def keys(self) -> list[str]:
        """Return the keys that somebody holds."""
        return list(self._held)

    def holders(self, key: str) -> list[tuple[str, int, int]]:
        """Return who holds a key: name, until_ms and units."""
        held = self._held.get(key)
        return [] if held is None else [(holder, until_ms, units) for holder, (until_ms, units) in held.holders.items()]

    def receive(self, key: str, holder: str, until_ms: int, units: int, now_ms: int) -> bool:
        """Hold what another process has given out; False: there is no room."""
        if until_ms <= now_ms:
            return True
        if self.held_bytes + HOLDER_BYTES + len(key) > self.limit_bytes:
            return False
        self._put(key, holder, until_ms, units)
        self._received.append((key, holder))
        return True

    def end_received(self) -> None:
        """The other process has ended, and whoever held something there."""
        received, self._received = self._received, []
        for key, holder in received:
            self.give_back(key, holder)

    def _put(self, key: str, holder: str, until_ms: int, units: int) -> None:
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held()
        before = held.holders.get(holder)
        if before is None:
            self.held_bytes += HOLDER_BYTES + len(key)
        held.holders[holder] = until_ms, units
        held.units += units - (0 if before is None else before[1])
        held.first_ms = min(held.first_ms, until_ms)

    def _reap(self, now_ms: int) -> None:
        """Look at a few keys that nobody looked at for longest: their holders may have been lost."""
        for _ in range(min(_REAP_PER_TAKE, len(self._held))):
            key = next(iter(self._held))
            self.held(key, now_ms)
            if key in self._held:
                self._held.move_to_end(key)

    def _drop(self, key: str, held: _Held, holder: str) -> None:
        held.units -= held.holders.pop(holder)[1]
        self.held_bytes -= HOLDER_BYTES + len(key)
        if not held.holders:
            del self._held[key]
