"""Blocking calls to files: one at a time, each with a deadline, none in the loop's way.

A call that hangs keeps its thread until the file system answers; later calls wait for it, within their own deadlines, so
a disk that is gone costs one thread and not one per call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

DISK_S = 1.0


class Disk:
    """One queue of one place for the files of one owner."""

    def __init__(self) -> None:
        self._busy: asyncio.Future[Any] | None = None

    def __repr__(self) -> str:
        return f"<Disk {'busy' if self._busy is not None and not self._busy.done() else 'free'}>"

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, from a thread.

        Raises:
            TimeoutError: not within a second; it goes on in its thread.
            OSError: what `work` raises.
        """
        async with asyncio.timeout(DISK_S):
            if self._busy is not None:
                await asyncio.wait({self._busy})
            running: asyncio.Future[T] = asyncio.ensure_future(_run_in_thread(work))
            running.add_done_callback(_look_at)
            self._busy = running
            return await asyncio.shield(running)


async def _run_in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except RuntimeError as error:
        raise TimeoutError(f"no thread for the disk ({error})") from None  # memory is short; later, perhaps


def _look_at(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()  # it was reported as late; asyncio would report it once more
