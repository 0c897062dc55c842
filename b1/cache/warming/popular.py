"""Which names are read most, in bounded memory: Space-Saving with forward decay.

Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT
2005): of `limit` counters the least one goes to a newcomer, which inherits its count. Whatever has more than 1/limit of
all readings is in the table for certain. What was inherited is remembered and not counted: a flood of names that come once
has none that counts. Decay is forward (Cormode et al.: "Forward Decay", ICDE
2009): a reading at t weighs ``2 ** ((t - start) / half_life)``, so that nothing has to be touched as time goes by.
"""

from __future__ import annotations

from collections.abc import Callable

# Weights are brought back to 1 before a float loses the small ones: 2**64 is far from its 2**1023.
_DOUBLINGS_MOST = 64.0


class Popular:
    """The table. A count is in readings of now: one of a half-life ago is half a one.

    Args:
        on_drop: told which name is not counted any more.
    """

    def __init__(
        self, limit: int, half_life_s: float, now: Callable[[], float], on_drop: Callable[[str], None] = lambda _: None
    ) -> None:
        self._limit = limit
        self._half_life_s = half_life_s
        self._now = now
        self._on_drop = on_drop
        self._start_s = now()
        self._counts: dict[str, float] = {}
        self._inherited: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Popular names={len(self._counts)} limit={self._limit}>"

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, name: str) -> bool:
        return name in self._counts

    def add(self, name: str, readings: float = 1.0) -> None:
        """Count readings of now."""
        weight = readings * self._weight()
        known = self._counts.get(name)
        if known is None and len(self._counts) >= self._limit:
            least = min(self._counts, key=self._counts.__getitem__)
            known = self._inherited[name] = self._counts[least]
            self.drop(least)
        self._counts[name] = (known or 0.0) + weight

    def drop(self, name: str) -> None:
        """Forget a name."""
        self._inherited.pop(name, None)
        if self._counts.pop(name, None) is not None:
            self._on_drop(name)

    def top(self, count: int, least: float = 0.0) -> list[tuple[str, float]]:
        """Return the most read names with their certain counts, the most read one first."""
        weight, inherited = self._weight(), self._inherited
        certain = [(name, (total - inherited.get(name, 0.0)) / weight) for name, total in self._counts.items()]
        ranked = sorted([pair for pair in certain if pair[1] >= least], key=lambda pair: -pair[1])
        return ranked[:count]

    def _weight(self) -> float:
        doublings = (self._now() - self._start_s) / self._half_life_s
        if doublings <= _DOUBLINGS_MOST:
            return float(2.0**doublings)
        shrink = 2.0 ** -min(doublings, 1000.0)
        self._counts = {name: total * shrink for name, total in self._counts.items()}
        self._inherited = {name: total * shrink for name, total in self._inherited.items()}
        self._start_s = self._now()
        return 1.0
