"""Our own work on connections: seeing abandoned queries off, cleaning up after a lease, lending one for a question.

Errands go before every caller, because each of them brings a connection back or frees a slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from b1.clock import Clock
from b1.db.ending import PATIENCE_S, see_off
from b1.db.running import Running
from b1.db.session import Session, failures
from b1.errors import DatabaseBusy, DatabaseUnavailable, NotRunning

if TYPE_CHECKING:
    from b1.db.fairness import Class
    from b1.db.fleet import Fleet
    from b1.db.load import Load

_RESET = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL"
_PING = "SELECT 1"


class Owner(Protocol):
    """What the pool offers to errands."""

    clock: Clock
    fleet: Fleet
    idle: list[Session]
    is_running: bool
    load: Load

    def offer(self, session: Session) -> None: ...

    async def wait(self, priority: Class, timeout_s: float) -> Session: ...


class Errands:
    """The errands of one pool.

    Attributes:
        leaving: sessions in an abandoned query, and since when it runs: they can help nobody.
    """

    def __init__(self, owner: Owner) -> None:
        self.leaving: dict[Session, float] = {}
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Errands leaving={len(self.leaving)}>"

    @asynccontextmanager
    async def borrow(self, wait_s: float) -> AsyncIterator[Session | None]:
        """Lend a session, ahead of every caller; None when none comes free in time."""
        session = await self._free_session(wait_s)
        try:
            yield session
        finally:
            if session is not None:
                self._owner.offer(session)

    def see_off(self, session: Session, running: Running[Any], *, asked_s: float, with_settings: bool) -> None:
        """End a query that was asked at `asked_s` and abandoned, and bring its session back."""
        self.leaving[session] = asked_s
        self._owner.fleet.spawn(self._see_off(session, running, with_settings))

    def clean(self, session: Session, *, with_settings: bool) -> None:
        """Roll back what a lease left open, and reset settings if it changed some."""
        self._owner.fleet.spawn(self._clean(session, with_settings))

    def ping(self, session: Session) -> None:
        """Ask on `session` whether the server answers."""
        self._owner.fleet.spawn(self._run_and_offer(session, _PING))

    def suspect(self) -> None:
        """Hear that neither a query nor its cancellation was answered."""
        self._owner.fleet.suspect()

    async def _free_session(self, wait_s: float) -> Session | None:
        owner = self._owner
        if owner.idle:
            return owner.idle.pop()
        if len(owner.fleet.sessions) <= len(self.leaving) or not owner.is_running:
            return None
        try:
            return await owner.wait("errand", wait_s)
        except (DatabaseBusy, DatabaseUnavailable, NotRunning):
            return None

    async def _see_off(self, session: Session, running: Running[Any], with_settings: bool) -> None:
        owner = self._owner
        began_s = owner.clock.monotonic()
        try:
            await see_off(self, session, running)
        except BaseException:
            session.raw.terminate()
            raise
        finally:
            self.leaving.pop(session, None)
            owner.load.ran_errand(owner.clock.monotonic() - began_s)
            if session.is_closed:
                owner.fleet.lose(session)
        if not session.is_closed:
            owner.fleet.trust()
            await self._clean(session, with_settings)

    async def _clean(self, session: Session, with_settings: bool) -> None:
        words = ["ROLLBACK"] if session.raw.is_in_transaction() else []
        words += [_RESET] if with_settings else []
        await self._run_and_offer(session, "; ".join(words))

    async def _run_and_offer(self, session: Session, sql: str) -> None:
        owner = self._owner
        try:
            if sql:
                async with asyncio.timeout(PATIENCE_S):
                    await session.execute(sql)
                owner.fleet.trust()
        except failures():
            session.raw.terminate()
        finally:
            owner.offer(session)
