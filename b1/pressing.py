"""What the runtime does when memory is short and nothing more can be given back: another worker, and the last state saved.

The governor says how it stands, the breaker (`b1.governor.Replacement`) how often a worker may be replaced for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from b1.governor import Governor, GovernorSnapshot, Level, Replacement
from b1.handover import Own
from b1.store.fallback import FallbackStore
from b1.store.passing import PassingStore

if TYPE_CHECKING:
    from b1.link import Link

EVERY_S = 1.0
# In an emergency the end may come before the hand-over does.
LAST_STATE_LIMIT_S = 1.0


class Pressing:
    """Asks for a successor for as long as memory is short.

    Args:
        is_running: the worker serves, and does not stop anyway.
        own: starts a task that the runtime ends.
    """

    def __init__(
        self,
        governor: Governor,
        replacement: Replacement,
        store: PassingStore,
        link: Link | None,
        *,
        is_running: Callable[[], bool],
        own: Own,
    ) -> None:
        self._governor = governor
        self._replacement = replacement
        self._store = store
        self._link = link
        self._is_running = is_running
        self._own = own
        self._asking: asyncio.Task[None] | None = None
        governor.on_irreclaimable(self._begin)
        governor.on_level(self._hurry)

    def __repr__(self) -> str:
        return f"<Pressing {'asking' if self._is_asking else 'calm'}>"

    @property
    def _is_asking(self) -> bool:
        return self._asking is not None and not self._asking.done()

    def _begin(self, _: GovernorSnapshot) -> None:
        if not self._is_asking:
            self._asking = self._own(self._ask(), "b1-press-for-successor")

    async def _ask(self) -> None:
        while self._governor.level >= Level.SEVERE and self._is_running():
            self._replacement.ask("memory", urgent=self._governor.level is Level.EMERGENCY)
            await asyncio.sleep(EVERY_S)

    def _hurry(self, _: Level, level: Level, __: GovernorSnapshot) -> None:
        """In an emergency a successor on its way comes too late: this worker ends, and the next one starts alone."""
        if level is not Level.EMERGENCY:
            return
        if self._link is not None and isinstance(self._store, FallbackStore):
            self._own(self._save(self._link, self._store), "b1-last-state")
        if self._is_asking:
            self._replacement.ask("memory", urgent=True)

    async def _save(self, link: Link, store: FallbackStore) -> None:
        """Write what only this process has, over the reserve if need be, while it still can."""
        async with link.urgent("emergency"):
            await store.pay(LAST_STATE_LIMIT_S)
