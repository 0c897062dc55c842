"""The keys that wait to be purged: each once, hard before soft, and everything when they are too many. Pure.

When it is full, everything is purged: to forget a key would leave something stale in the CDN, and thousands of keys cost
the receiver more than starting anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from b1.purge.adapters import Batch, new_batch


class _Key(NamedTuple):
    soft: bool
    mark: int  # of the first put that still waits
    since_s: float


class Waiting:
    """What was put and not delivered.

    Attributes:
        mark: names everything that was put so far.
        collapsed: how often everything was purged because too much waited.

    Args:
        limit: keys that it holds.
        batch: keys that one call may have.
        knows_soft: False: soft keys are purged hard, and travel with the others.
    """

    def __init__(self, *, limit: int, batch: int, knows_soft: bool) -> None:
        self.mark = 0
        self.collapsed = 0
        self._limit = limit
        self._batch = batch
        self._knows_soft = knows_soft
        self._keys: dict[str, _Key] = {}
        self._everything: _Key | None = None
        self._flying: list[tuple[str, _Key]] = []
        self._flight: Batch | None = None

    def __repr__(self) -> str:
        return f"<Waiting {len(self)}/{self._limit} flying={len(self._flying)}>"

    def __len__(self) -> int:
        return len(self._keys) + (self._everything is not None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not len(self) and self._flight is None

    @property
    def settled(self) -> int:
        """All puts up to this mark are delivered or given up."""
        return min((key.mark for key in self._outstanding()), default=self.mark + 1) - 1

    def oldest_s(self, now_s: float) -> float:
        """Return the age of what waits longest."""
        return max((now_s - key.since_s for key in self._outstanding()), default=0.0)

    def put(self, keys: Iterable[str], now_s: float, *, soft: bool) -> int:
        """Add keys; one that waits already stays where it is, and becomes hard when it is asked for hard."""
        self.mark += 1
        if self._everything is not None:
            return self.mark
        for key in keys:
            known = self._keys.get(key)
            if known is None:
                self._keys[key] = _Key(soft and self._knows_soft, self.mark, now_s)
            elif known.soft and not soft:
                self._keys[key] = known._replace(soft=False)
        if len(self._keys) > self._limit:
            self.collapsed += 1
            self.put_everything(now_s)
        return self.mark

    def put_everything(self, now_s: float) -> int:
        """Purge everything, instead of all that waits."""
        self.mark += 1
        first = min((key.mark for key in self._keys.values()), default=self.mark)
        if self._everything is None:
            self._everything = _Key(False, first, now_s)
        self._keys.clear()
        return self.mark

    def begin(self) -> Batch | None:
        """Take what the next call purges; the batch that failed before, if there is one."""
        if self._flight is not None:
            return self._flight
        if self._everything is not None:
            self._flying = [("", self._everything)]
            self._everything = None
            self._flight = new_batch((), soft=False, is_all=True)
        elif self._keys:
            soft = next(iter(self._keys.values())).soft
            if soft and any(not key.soft for key in self._keys.values()):
                soft = False  # what may not be served goes before what may
            chosen = [(name, key) for name, key in self._keys.items() if key.soft is soft][: self._batch]
            for name, _ in chosen:
                del self._keys[name]
            self._flying = chosen
            self._flight = new_batch((name for name, _ in chosen), soft=soft)
        return self._flight

    def settle(self) -> int:
        """The call was answered well, or is given up; return how many keys it had."""
        count = len(self._flying)
        self._flying, self._flight = [], None
        return count

    def halve(self) -> bool:
        """The receiver dislikes something in the batch: try its halves. False when it is one key alone."""
        if len(self._flying) < 2 or self._flight is None:
            return False
        middle = len(self._flying) // 2
        back, self._flying = self._flying[middle:], self._flying[:middle]
        self._keys = {name: _merged(key, self._keys.pop(name, key)) for name, key in back} | self._keys
        self._flight = new_batch((name for name, _ in self._flying), soft=self._flight.soft)
        return True

    def expire(self, before_s: float) -> int:
        """Give up what was put before that moment; return how many."""
        old = [name for name, key in self._keys.items() if key.since_s < before_s]
        for name in old:
            del self._keys[name]
        count = len(old)
        if self._flying and all(key.since_s < before_s for _, key in self._flying):
            count += self.settle()
        if self._everything is not None and self._everything.since_s < before_s:
            self._everything = None
            count += 1
        return count

    def _outstanding(self) -> list[_Key]:
        everything = [self._everything] if self._everything is not None else []
        return [*everything, *self._keys.values(), *(key for _, key in self._flying)]


def _merged(one: _Key, other: _Key) -> _Key:
    return _Key(one.soft and other.soft, min(one.mark, other.mark), min(one.since_s, other.since_s))
