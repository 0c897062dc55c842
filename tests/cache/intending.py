"""One process's worth of intents around a real Postgres: a shared memory of what was applied, and a child to be killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from b1.cache.intents.intents import Intents
from b1.cache.intents.options import IntentOptions
from b1.cache.intents.rules import Rule, Rules
from b1.clock import SystemClock
from b1.db import Database, DatabaseOptions
from b1.db.migrate import LIBRARY_FOLDER

RULES = Rules(
    Rule("thing.updated", tags=("thing:{{id}}",)),
    Rule("thing.updated", tags=("list",), soft=True),
)
SCHEMA = "CREATE TABLE IF NOT EXISTS things (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"
FAST: dict[str, Any] = {"linger_s": 0.005, "replay_every_s": 0.05, "replay_after_s": 60.0, "retry_s": 0.01}


class Applied:
    """Stands for the store: remembers what was applied; may hang, fail, or be away."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self.error: Exception | None = None
        self.is_shared = True
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def tags(self) -> set[str]:
        return {tag for hard, soft in self.calls for tag in (*hard, *soft)}

    async def __call__(self, hard: Sequence[str], soft: Sequence[str]) -> None:
        self.calls.append((tuple(hard), tuple(soft)))
        await self.gate.wait()
        if self.error is not None:
            raise self.error


@asynccontextmanager
async def database_at(url: str, folder: Path, *, migrated: bool = True) -> AsyncIterator[Database]:
    """A running database with the library's tables and one of things."""
    database = Database(DatabaseOptions(url=url, slots_dir=folder))
    await database.start()
    try:
        schema = (LIBRARY_FOLDER / "0002_cache_intents.sql").read_text() if migrated else ""
        await database.execute(f"{schema}; {SCHEMA}; INSERT INTO things VALUES (1), (2) ON CONFLICT DO NOTHING")
        yield database
    finally:
        await database.aclose()


@asynccontextmanager
async def intents_on(database: Database | None, applied: Applied, **options: Any) -> AsyncIterator[Intents]:
    """Running intents."""
    made = options.pop("made", {})
    intents = Intents(
        RULES,
        applied,
        SystemClock(),
        database=database,
        is_shared=lambda: applied.is_shared,
        options=IntentOptions(**(FAST | options)),
        **made,
    )
    await intents.start()
    try:
        yield intents
    finally:
        applied.gate.set()
        await intents.aclose()


async def rows(database: Database) -> int:
    return int(await database.fetchval("SELECT count(*) FROM b1_cache_intents"))


async def until(true: Any) -> None:
    """Let the loop run until `true`; bounded."""
    async with asyncio.timeout(20.0):
        while not await _holds(true):
            await asyncio.sleep(0.005)


async def _holds(true: Any) -> bool:
    found = true()
    return bool(await found if asyncio.iscoroutine(found) else found)


async def _doomed(url: str, folder: str, moment: str, number: int) -> None:
    """Write one thing as far as `moment`, say so, and wait to be killed."""

    async def stop() -> None:
        sys.stdout.write("inside\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    async def apply(hard: Sequence[str], soft: Sequence[str]) -> None:
        if moment == "committed":
            await stop()

    options = IntentOptions(**{**FAST, "wait_s": 3600.0, "linger_s": 3600.0})
    async with database_at(url, Path(folder)) as database, database.acquire() as lease:
        intents = Intents(RULES, apply, SystemClock(), database=database, options=options)
        async with lease.transaction() as tx:
            await tx.execute("UPDATE things SET n = n + 1 WHERE id = $1", number)
            await intents.changed(tx, "thing.updated", id=number)
            if moment == "written":
                await stop()
        await stop()  # applied, and the row not deleted


if __name__ == "__main__":
    asyncio.run(_doomed(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
