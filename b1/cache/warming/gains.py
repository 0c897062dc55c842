"""What warming gained: whether what was warmed was read before it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from b1.cache.warming.looking import Look


class _Followed(NamedTuple):
    cost_ms: float
    expires_s: float


class Gains:
    """Follows warmed entries until they are used or gone.

    An entry that was used and is gone again between two looks counts as wasted: the gain is never too high.

    Args:
        look: at an entry, by its name in L1.
        limit: entries that are followed at a time.
    """

    def __init__(self, look: Callable[[str], Look | None], limit: int) -> None:
        self._look = look
        self._limit = limit
        self._followed: dict[str, _Followed] = {}
        self.used = self.wasted = self.unmeasured = 0
        self.saved_ms = 0.0

    def __repr__(self) -> str:
        return f"<Gains used={self.used} wasted={self.wasted} followed={len(self._followed)}>"

    def __len__(self) -> int:
        return len(self._followed)

    def follow(self, names: tuple[str, ...], cost_ms: float) -> None:
        """Follow what a warm-up made; its cost is shared among them."""
        for name in names:
            found = self._look(name)
            # One that replaced a used entry has inherited its mark.
            if found is None or found.is_used or len(self._followed) >= self._limit:
                self.unmeasured += 1
            else:
                self._followed[name] = _Followed(cost_ms / len(names), found.expires_s)

    def sweep(self, now_s: float) -> None:
        """Look at each."""
        for name, followed in list(self._followed.items()):
            found = self._look(name)
            if found is not None and found.is_used:
                self.used += 1
                self.saved_ms += followed.cost_ms
            elif found is None or found.expires_s <= now_s:
                self.wasted += 1
            else:
                continue
            del self._followed[name]
