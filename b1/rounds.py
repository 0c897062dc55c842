"""What is looked at now and then, whether somebody asks or not: Postgres, and how full the store of idempotency keys is.

Each round is one task of the runtime's, bounded in each step; a look that fails is news for the health report, not the end
of the round.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from b1.errors import RequestError
from b1.idempotency import UsageWarning, warnings_of

if TYPE_CHECKING:
    from b1.alerts import Alerts
    from b1.db import Database
    from b1.idempotency import Idempotency, Usage

log = logging.getLogger("b1.runtime")

# An idle service knows within two of these that Postgres has gone.
DATABASE_EVERY_S = 2.0
DATABASE_LIMIT_S = 2.0
USAGE_EVERY_S = 60.0


async def probe_database(database: Database) -> None:
    """Ask Postgres now and then, so that an idle service also knows; a busy one learns it from its own traffic."""
    while True:
        try:
            await database.fetchval("SELECT 1", priority="background", timeout_s=DATABASE_LIMIT_S)
        except RequestError:
            pass  # busy, away or silent: the pool has noted it, and its snapshot is what health reads
        except Exception as error:  # noqa: BLE001 - a refusal of Postgres itself; the watch must outlive it
            log.warning("the database refused a probe", extra={"error": type(error).__name__})
        await asyncio.sleep(DATABASE_EVERY_S)


class UsageRound:
    """Asks the store of idempotency keys how full it is, and fires a warning at 80 %.

    Attributes:
        usage, warnings: of the last look; None and () before the first, and while the store is away.
    """

    def __init__(self, idempotency: Idempotency, alerts: Alerts) -> None:
        self._idempotency = idempotency
        self._alerts = alerts
        self.usage: Usage | None = None
        self.warnings: tuple[UsageWarning, ...] = ()

    def __repr__(self) -> str:
        return f"<UsageRound usage={self.usage!r} warnings={[found.name for found in self.warnings]}>"

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(USAGE_EVERY_S)

    async def look(self) -> None:
        """Look once."""
        try:
            self.usage = await self._idempotency.usage()
        except RequestError:
            self.usage = None  # the store is away, which others say
            return
        before, self.warnings = self.warnings, warnings_of(self.usage)
        for found in self.warnings:
            self._alerts.fire(found.name, "warning", found.text, {"remedy": found.remedy})
        for name in {one.name for one in before} - {one.name for one in self.warnings}:
            self._alerts.resolve(name)
