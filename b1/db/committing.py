"""What an application wants done once its transaction is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

OnCommit = Callable[[], Awaitable[None] | None]

_log = logging.getLogger("b1.db")
# Of each callback: the connection is held meanwhile.
_LIMIT_S = 5.0


async def call_all(callbacks: Iterable[OnCommit]) -> None:
    """Call one after the other, each bounded; a failure is logged, because the transaction is committed."""
    for callback in callbacks:
        try:
            waiting = callback()
            if waiting is not None:
                async with asyncio.timeout(_LIMIT_S):
                    await waiting
        except Exception:  # noqa: BLE001 - whatever it is, it comes too late to undo anything
            _log.exception("a callback behind a commit failed")
