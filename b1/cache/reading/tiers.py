"""Where a value lives, by how it is read: hot in this process, warm in Redis too, cold in Redis and packed harder.

Two things move a value up. One that lives in Redis alone comes into this process with its second read in a minute. And a
much read one stays longer: its time begins anew, up to a day after it was loaded, if nobody promised its age in seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from b1.cache.options import COLD_S, HOT_S, Tier
from b1.cache.packing.codec import COLD, EXTENDABLE

_WINDOW_S = 60.0
_NAMES = 1024
_READS_TO_RETURN = 2


class Heat:
    """Reads per name in the present minute; at most 1024 names, the rest of a flood is not counted."""

    def __init__(self) -> None:
        self._reads: dict[str, int] = {}
        self._until_s = 0.0

    def __repr__(self) -> str:
        return f"<Heat names={len(self._reads)}>"

    def read(self, name: str, now_s: float) -> int:
        """Count a read; return how many there were in this minute."""
        if now_s >= self._until_s:
            self._reads.clear()
            self._until_s = now_s + _WINDOW_S
        if name not in self._reads and len(self._reads) >= _NAMES:
            return 1
        reads = self._reads[name] = self._reads.get(name, 0) + 1
        return reads


def comes_home(flags: int, reads: int) -> bool:
    """Say whether a value that was found in Redis is kept in this process too."""
    return not flags & COLD or reads >= _READS_TO_RETURN


def staying(tier: Tier, fresh_s: float, local_s: float, *, is_shared: bool) -> float:
    """Return how long a value may stay in this process: not long where Redis has it too."""
    if tier == "hot":
        return min(fresh_s, HOT_S)
    return min(fresh_s, local_s) if is_shared else fresh_s


def extended_s(flags: int, created_ms: int, now_ms: int, ttl_s: float) -> float:
    """Return for how long a much read value may be fresh from now on; 0: its time is not extended."""
    if not flags & EXTENDABLE:
        return 0.0
    age_s = max(0.0, (now_ms - created_ms) / 1000.0)
    return max(0.0, min(ttl_s, COLD_S - age_s))


def jittered(seconds: float, part: float, random: Callable[[], float]) -> float:
    """Return the time, a little shorter or longer, so that what was loaded together does not end together."""
    return seconds * (1.0 + part * (2.0 * random() - 1.0))


class Throttle:
    """Names whose load has failed, for as long as it is not tried again; at most 1024, the oldest first out."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Throttle names={len(self._until_s)}>"

    def failed(self, name: str, until_s: float) -> None:
        """Do not try this one before then."""
        self._until_s.pop(name, None)
        if len(self._until_s) >= _NAMES:
            del self._until_s[next(iter(self._until_s))]
        self._until_s[name] = until_s

    def worked(self, name: str) -> None:
        """Try this one again whenever it is wanted."""
        self._until_s.pop(name, None)

    def holds(self, name: str, now_s: float) -> bool:
        """Say whether a load has failed too recently."""
        return bool(self._until_s) and self._until_s.get(name, 0.0) > now_s
