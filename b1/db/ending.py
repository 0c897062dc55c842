"""The end of a query that its caller abandoned: by cancellation, or because its time was over.

The caller is gone already. First the query may end by itself for a moment, as most do; then a sibling connection interrupts
it with pg_cancel_backend; only when no sibling comes free is the socket closed, and the slot rests. The connection serves
again when both its query and the interrupting statement have ended: by then the signal cannot hit a later query.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from b1.db.running import Running
from b1.db.session import Session, failures

# Most abandoned queries are short, and interrupting costs two queries and a rollback.
NATURAL_END_S = 0.02
SIBLING_WAIT_S = 0.1
SUSPICION_S = 1.0
PATIENCE_S = 4.0


class Owner(Protocol):
    """What the pool offers to whoever ends a query."""

    def borrow(self, wait_s: float) -> AbstractAsyncContextManager[Session | None]: ...

    def suspect(self) -> None:
        """Hear that the server answers neither a query nor its cancellation."""
        ...


async def see_off(owner: Owner, session: Session, running: Running[Any]) -> None:
    """Wait for the end of an abandoned query, hastening it; afterwards the session is free or closed."""
    ending = asyncio.ensure_future(_finish(running))
    try:
        await asyncio.wait({ending}, timeout=NATURAL_END_S)
        if not ending.done():
            await _hasten(owner, session, ending)
    finally:
        if not ending.done():
            session.raw.terminate()
            ending.cancel()
            await asyncio.wait({ending})
            running.discard()


async def _finish(running: Running[Any]) -> None:
    try:
        await running
    except failures() + (ValueError, TypeError, AttributeError):  # noqa: RUF005 - mypy reads no unpacking in an except clause
        pass  # its caller has gone, it may have been terminated; whether the connection lives shows in `is_closed`


async def _hasten(owner: Owner, session: Session, ending: asyncio.Future[None]) -> None:
    async with owner.borrow(SIBLING_WAIT_S) as sibling:
        if sibling is None or ending.done():
            return
        asking = asyncio.ensure_future(_cancel(sibling, session.pid))
        try:
            _, pending = await asyncio.wait({ending, asking}, timeout=SUSPICION_S)
            if len(pending) == 2:
                owner.suspect()
            if pending:
                await asyncio.wait({ending, asking}, timeout=PATIENCE_S)
        finally:
            if not asking.done():
                # Without its answer the signal is still to come, and could hit whatever runs there next.
                session.raw.terminate()
                sibling.raw.terminate()
                asking.cancel()
            await asyncio.wait({asking})


async def _cancel(sibling: Session, pid: int) -> None:
    try:
        await sibling.cancel_query_of(pid)
    except failures():
        pass  # the sibling died, or the victim ended first; the victim's end is what we wait for
