"""A restart on a real Postgres: whoever comes first finds the board there, and the counts say what that was worth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from b1.cache import L1, Cache
from b1.cache.warming import Conditions, Warming, WarmingOptions, Warmups
from b1.clock import SystemClock
from b1.db import Database, DatabaseOptions, in_background
from b1.db.priority import usual_priority
from b1.types import Principal

LIMIT_BYTES = 4 * 1024 * 1024
FAST: dict[str, Any] = {
    "pause_least_s": 0.001,
    "pause_most_s": 0.01,
    "sweep_s": 3600.0,
    "least_count": 0.5,
    "look_s": 0.01,
}
QUERY = "SELECT count(*) FROM things WHERE owner = $1"


class Shop:
    """One process of an application: a board of each organisation, which is expensive, and a menu."""

    def __init__(self, database: Database, **options: Any) -> None:
        self.database = database
        self.queries: list[tuple[str, str]] = []
        clock = SystemClock()
        self.l1 = L1(LIMIT_BYTES, clock)
        self.cache = Cache(self.l1, clock, limit_bytes=LIMIT_BYTES, background=in_background)
        warmups = Warmups()
        warmups.add("menu", self.menu, keys=("menu",))
        warmups.learn("board")(self.board)
        warmups.for_principal("inbox", keys=lambda who: (("inbox:1", who.organization),))(self.inbox)
        self.is_busy = False
        self.warming = Warming(
            warmups,
            self.l1,
            clock,
            conditions=Conditions(is_saturated=lambda: self.is_busy or database.is_saturated),
            background=in_background,
            options=WarmingOptions(**(FAST | options)),
        )

    async def menu(self) -> int:
        return await self._cached("menu", None)

    async def board(self, key: str, organization: str | None) -> int:
        return await self._cached(key, organization)

    async def inbox(self, who: Principal) -> int:
        return await self._cached("inbox:1", who.organization)

    async def _cached(self, key: str, organization: str | None) -> int:
        async def load() -> int:
            self.queries.append((key, usual_priority()))
            found: int = await self.database.fetchval(QUERY, organization or "menu")
            return found

        return await self.cache.get_or_load(key, load, ttl_s=3600, organization=organization)

    async def until(self, warmed: int) -> None:
        async with asyncio.timeout(20):
            while sum(self.warming.snapshot().warmed.values()) < warmed:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def shop(database: Database, **options: Any) -> AsyncIterator[Shop]:
    one = Shop(database, **options)
    await one.warming.start()
    try:
        yield one
    finally:
        await one.warming.aclose()
        await one.cache.aclose()


@pytest.fixture
async def database(postgres_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    one = Database(DatabaseOptions(url=postgres_url, slots_dir=tmp_path / "slots"))
    await one.start()
    try:
        await one.execute("CREATE TABLE things (owner text); INSERT INTO things VALUES ('1'), ('1'), ('2'), ('menu')")
        yield one
    finally:
        await one.aclose()


async def test_the_first_request_after_a_restart_is_a_hit(database: Database) -> None:
    async with shop(database) as before:
        assert [2, 2, 1, 1] == [await before.board("board:1", name) for name in ("1", "1", "2", "2")]
        before.warming.sweep()
        left = before.warming.export()
        assert 3 == len(before.queries)
    async with shop(database) as after:
        assert [("menu", "web")] == after.queries  # the start, alone on its host, gives way to nobody
        after.warming.absorb(left)
        await after.until(3)
        assert [("board:1", "background")] * 2 == after.queries[1:]
        hits = after.cache.snapshot().hits
        assert [2, 1, 1] == [await after.board("board:1", "1"), await after.board("board:1", "2"), await after.menu()]
        assert (3, hits + 3) == (len(after.queries), after.cache.snapshot().hits)  # nobody asked Postgres again
        after.warming.sweep()
        now = after.warming.snapshot()
        assert ({"critical": 1, "learnt": 2}, 3, 0, 0) == (now.warmed, now.used, now.wasted, now.unmeasured)
        assert now.saved_ms == pytest.approx(sum(now.cost_ms.values()))


async def test_a_user_s_warm_up_waits_while_the_database_is_busy(database: Database) -> None:
    async with shop(database) as one:
        one.is_busy = True
        one.warming.met(Principal("ann", "1"))
        async with asyncio.timeout(20):
            while one.warming.state != "held":
                await asyncio.sleep(0.005)
        assert [("menu", "web")] == one.queries
        one.is_busy = False
        await one.until(2)
        assert 2 == await one.inbox(Principal("ann", "1"))
        assert [("inbox:1", "background")] == one.queries[1:]
        assert {"database": 1} == one.warming.snapshot().holds
