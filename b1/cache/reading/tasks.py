"""Tasks that nobody waits for: kept, bounded in number, cancelled and awaited at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from b1.clock import DEADLINE

_log = logging.getLogger("b1.cache")


class Tasks:
    """Owns tasks; what is too many is not begun, so it must be work that may be left out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Tasks running={len(self._tasks)}>"

    def __len__(self) -> int:
        return len(self._tasks)

    def own(self, work: Coroutine[Any, Any, None], name: str) -> bool:
        """Run the work; False when too much runs already."""
        if len(self._tasks) >= self._most:
            work.close()
            return False
        deadline = DEADLINE.set(None)  # the work is nobody's who waits
        try:
            task = asyncio.get_running_loop().create_task(work, name=name)
        finally:
            DEADLINE.reset(deadline)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return True

    async def aclose(self) -> None:
        """End them all."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("cache work failed", exc_info=error, extra={"work": task.get_name()})
