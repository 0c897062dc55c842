"""Finding out whether a server that owes an answer is away, or only has long work: one question at a time, by other means.

A frozen server keeps its sockets open; nothing fails, answers just do not come. The question goes over a free connection;
when there is none it is an SSLRequest, whose answer needs no client backend and therefore no slot. If the clock says that
the check itself took too long, it was our loop that stood still, and nothing is concluded.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from b1.clock import Clock
from b1.db.session import Session, failures

if TYPE_CHECKING:
    from b1.db.errands import Errands
    from b1.db.fleet import Fleet
    from b1.db.lease import Lease

SILENCE_CHECK_S = 2.0
_STALL_S = SILENCE_CHECK_S * 1.5
_PING = "SELECT 1"


class Owner(Protocol):
    """What the pool offers to whoever breaks the silence."""

    clock: Clock
    errands: Errands
    fleet: Fleet
    leases: set[Lease]
    idle: list[Session]

    def offer(self, session: Session) -> None: ...


class SilenceWatch:
    """Watches how long the server has owed an answer.

    Args:
        owner: the pool.
        limit_s: the silence after which it is asked.
    """

    def __init__(self, owner: Owner, limit_s: float) -> None:
        self._owner = owner
        self._limit_s = limit_s
        self._is_asking = False

    def __repr__(self) -> str:
        return f"<SilenceWatch limit_s={self._limit_s:g} asking={self._is_asking}>"

    def look(self) -> None:
        """Bring the silence up to date, and ask when it has lasted; called by the pool's tick."""
        fleet = self._owner.fleet
        reach = fleet.reach
        reach.look(self._oldest_question_s())
        if reach.has_answered_since:
            fleet.trust()
        elif not reach.is_away and not self._is_asking and reach.silent_s >= self._limit_s:
            self._is_asking = True
            fleet.spawn(self._ask())

    def _oldest_question_s(self) -> float | None:
        owner = self._owner
        asked = [lease.asked_s for lease in owner.leases if lease.is_asking]
        asked += owner.errands.leaving.values()
        if (attempt_s := owner.fleet.oldest_attempt_s) is not None:
            asked.append(attempt_s)
        return min(asked, default=None)

    async def _ask(self) -> None:
        owner = self._owner
        began_s = owner.clock.monotonic()
        try:
            if owner.idle:
                await self._ask_on(owner.idle.pop())
                owner.fleet.trust()
            else:
                await owner.fleet.opener.sign_of_life(SILENCE_CHECK_S)
                owner.fleet.reach.hear()
        except failures() as error:
            was_stalled = owner.clock.monotonic() - began_s > _STALL_S
            if not (isinstance(error, TimeoutError) and was_stalled):
                owner.fleet.suspect("silent")
        finally:
            self._is_asking = False

    async def _ask_on(self, session: Session) -> None:
        try:
            async with asyncio.timeout(SILENCE_CHECK_S):
                await session.execute(_PING)
        except TimeoutError:
            session.raw.terminate()
            raise
        finally:
            self._owner.offer(session)
