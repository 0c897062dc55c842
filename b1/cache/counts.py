"""What the cache counts. Names come from keys, so their number is bounded; the rest is counted as "other"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from b1.cache.packing.holding import HoldSnapshot

OTHER = "other"


@dataclass(frozen=True, slots=True)
class NamespaceCount:
    """Reads of the keys that begin with one name."""

    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """What the cache says about itself, in accounted bytes.

    Attributes:
        ceiling_bytes: the most at the present memory level.
        hits: reads answered without waiting for a load, stale ones included.
        misses: reads that had to wait for a load.
        loads_running: loads that run or wait for their turn.
        l1_hits, l2_hits: by the layer that answered.
        loads: calls of loaders.
        joined: callers who waited for a load that another one had begun.
        refreshes: loads for nobody who waits: before the end of a value's time, or behind a stale answer.
        stale: answers with a stale value, by reason: ``revalidate``, ``saturated``, ``timeout``, ``error``.
        refused: values that were answered and not kept, by reason: ``changed`` (an invalidation overtook the load),
            ``too_large``, ``no_room``, ``lease`` (the caller held a database lease).
        errors: by cause: ``load`` (a loader raised), ``timeout`` (a load was given up), ``store`` (the shared store did
            not answer), and what was wrong with an envelope.
        namespaces: by the key's part before its first colon.
        invalidations_pending: names that are on their way to the shared store.
        promoted: values whose stay was extended because they are much read.
        dictionaries: trained or learnt, in use.
        held: what of it lies packed in the in-process map.
    """

    enabled: bool
    entries: int
    held_bytes: int
    limit_bytes: int
    hits: int
    misses: int
    loads_running: int
    evictions: dict[str, int]
    ceiling_bytes: int = 0
    l1_hits: int = 0
    l2_hits: int = 0
    loads: int = 0
    joined: int = 0
    refreshes: int = 0
    stale: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    namespaces: dict[str, NamespaceCount] = field(default_factory=dict)
    invalidations_pending: int = 0
    promoted: int = 0
    dictionaries: int = 0
    held: HoldSnapshot = field(default_factory=HoldSnapshot)


class Counts:
    """Plain numbers, written by the event loop's thread."""

    def __init__(self, namespaces: int) -> None:
        self._most = namespaces
        self._hits: dict[str, int] = {}
        self._misses: dict[str, int] = {}
        self.l1_hits = 0
        self.l2_hits = 0
        self.loads = 0
        self.joined = 0
        self.refreshes = 0
        self.promoted = 0
        self.stale = {"revalidate": 0, "saturated": 0, "timeout": 0, "error": 0}
        self.refused = {"changed": 0, "too_large": 0, "no_room": 0, "lease": 0}
        self.errors: dict[str, int] = {"load": 0, "timeout": 0, "store": 0}

    def __repr__(self) -> str:
        return f"<Counts hits={self.hits} misses={self.misses} loads={self.loads}>"

    @property
    def hits(self) -> int:
        return sum(self._hits.values())

    @property
    def misses(self) -> int:
        return sum(self._misses.values())

    def hit(self, key: str) -> None:
        """Count a read that was answered at once; on the fast path."""
        name = key.partition(":")[0]
        try:
            self._hits[name] += 1
        except KeyError:
            self._first(self._hits, name)

    def hit_many(self, keys: Iterable[str]) -> None:
        """Count many reads that were answered at once."""
        for name, number in Counter([key.partition(":")[0] for key in keys]).items():
            if name in self._hits:
                self._hits[name] += number
            else:
                self._first(self._hits, name, number)

    def miss(self, key: str) -> None:
        """Count a read that had to wait for a load."""
        name = key.partition(":")[0]
        try:
            self._misses[name] += 1
        except KeyError:
            self._first(self._misses, name)

    def error(self, cause: str) -> None:
        """Count something that went wrong; causes are fixed words."""
        self.errors[cause] = self.errors.get(cause, 0) + 1

    def namespaces(self) -> dict[str, NamespaceCount]:
        """Return the counts by name."""
        names = dict.fromkeys([*self._hits, *self._misses])
        return {name: NamespaceCount(self._hits.get(name, 0), self._misses.get(name, 0)) for name in names}

    def snapshot(self, **rest: Any) -> CacheSnapshot:
        """Return all that is counted here, with the rest of a snapshot."""
        return CacheSnapshot(
            hits=self.hits,
            misses=self.misses,
            l1_hits=self.l1_hits,
            l2_hits=self.l2_hits,
            loads=self.loads,
            joined=self.joined,
            refreshes=self.refreshes,
            stale=dict(self.stale),
            refused=dict(self.refused),
            errors=dict(self.errors),
            namespaces=self.namespaces(),
            promoted=self.promoted,
            **rest,
        )

    def _first(self, counts: dict[str, int], name: str, number: int = 1) -> None:
        is_known = name in self._hits or name in self._misses
        if not is_known and len({*self._hits, *self._misses}) >= self._most:
            name = OTHER
        counts[name] = counts.get(name, 0) + number
