"""A private Postgres that counts its statements, the entities in it, and the counts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from b1.embedded import postgres, process
from caching.entity import TABLE
from caching.workload import ENTITIES, Documents, organization_of

_EXTENSION = "pg_stat_statements"
_COUNTS = """
SELECT coalesce(sum(calls) FILTER (WHERE query ILIKE 'SELECT%FROM entities%'), 0)::bigint AS reads,
       coalesce(sum(calls) FILTER (WHERE query ILIKE '%UPDATE entities%'), 0)::bigint AS writes,
       coalesce(sum(calls) FILTER (WHERE query ~* '^\\s*(SELECT|INSERT|UPDATE|DELETE|WITH)'), 0)::bigint AS queries,
       coalesce(sum(calls), 0)::bigint AS statements
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'b1') AND query NOT LIKE '%pg_%'
"""


class CountingPostgres(postgres.EmbeddedPostgres):
    """One whose superuser has installed pg_stat_statements, which nobody can do over a connection."""

    def _initialise(self, binaries: Any, identity: process.Identity | None, data: Path) -> None:
        super()._initialise(binaries, identity, data)
        process.run(
            [binaries.postgres, "--single", "-F", "-D", data, "-c", f"shared_preload_libraries={_EXTENSION}", "b1"],
            identity=identity,
            cwd=data.parent,
            text=f"create extension {_EXTENSION}\ngrant pg_read_all_stats to b1\n",
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """What the server was asked: reads and writes of entities; these and whatever else reads or changes rows; and with
    transaction control. What asks the server about itself is left out, such as the resets of a pool."""

    reads: int
    writes: int
    queries: int
    statements: int

    def since(self, before: Counts) -> Counts:
        return Counts(
            self.reads - before.reads,
            self.writes - before.writes,
            self.queries - before.queries,
            self.statements - before.statements,
        )


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run it on this process's cores and yield its URL."""
    settings = {"shared_preload_libraries": _EXTENSION}
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder:
        server = CountingPostgres(Path(folder), say=lambda _: None)
        before = dict(postgres.SETTINGS)
        postgres.SETTINGS.update(settings)
        try:
            yield server.start()
        finally:
            server.stop()
            postgres.SETTINGS.clear()
            postgres.SETTINGS.update(before)


async def fill(url: str, documents: Documents) -> None:
    """Make the table anew, every entity at its first revision."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("DROP TABLE IF EXISTS entities")
        await connection.execute(TABLE)
        rows = [(number, organization_of(number), 0, documents.lines[number]) for number in range(ENTITIES)]
        await connection.copy_records_to_table("entities", records=rows)
        await connection.execute("ANALYZE entities")
        await connection.fetchval("SELECT count(*) FROM entities WHERE length(lines::text) > 0")
    finally:
        await connection.close()


class Counter:
    """Asks for the counts; this question is none of them."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def counts(self) -> Counts:
        connection = await asyncpg.connect(self._url)
        try:
            row = await connection.fetchrow(_COUNTS)
        finally:
            await connection.close()
        assert row is not None
        return Counts(row["reads"], row["writes"], row["queries"], row["statements"])
