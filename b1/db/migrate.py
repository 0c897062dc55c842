"""Schema by plain SQL files: which there are, which were applied, and applying the others in order.

Each file is one transaction that begins with the advisory lock, so two hosts that start at once take turns file by
file and no session keeps a lock. A file that was applied must stay as it was: the record holds its digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from b1.errors import B1Error

if TYPE_CHECKING:
    import asyncpg

    from b1.db.lease import Lease

LIBRARY = "b1"
LIBRARY_FOLDER = Path(__file__).with_name("migrations")
SEED = "demo.sql"

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('b1_migrations', 0))"
_TABLE = """
CREATE TABLE IF NOT EXISTS b1_migrations (
    name text PRIMARY KEY,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_DIGEST_OF = "SELECT digest FROM b1_migrations WHERE name = $1"
_RECORD = "INSERT INTO b1_migrations (name, digest) VALUES ($1, $2)"

_NUMBERED = re.compile(r"\d{4}_\w+\.sql")
# What can hide a semicolon, then the semicolon itself. Dollar quotes end at their own tag.
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|[eE]'(?:\\.|[^'\\])*'|'[^']*'|\"[^\"]*\"|(?P<tag>\$\w*\$).*?(?P=tag)|(?P<end>;)", re.DOTALL
)
_OWN_BLOCKS = re.compile(r"\bBEGIN\s+ATOMIC\b", re.IGNORECASE)
_TRANSACTION_WORDS = re.compile(r"(BEGIN|COMMIT|ROLLBACK|END|START\s+TRANSACTION)\b", re.IGNORECASE)
_BLANK = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)


class MigrationFailed(B1Error):
    """A file cannot be applied; says which, the line, and why. Nothing of that file is in the database."""

    code = "MIGRATION_FAILED"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file.

    Attributes:
        name: ``package/0001_what.sql``, under which it is recorded.
        path: for messages.
        sql: its text, with ``\\n`` at the end of lines.
    """

    name: str
    path: Path
    sql: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Statement:
    """A part of a file that the server runs as one, and the line on which it begins."""

    sql: str
    line: int


def read_migrations(folder: Path, package: str) -> list[Migration]:
    """Return the numbered files of `folder` in order; none when there is no such folder.

    Raises:
        MigrationFailed: a ``.sql`` file with another kind of name, or a number twice.
    """
    found: dict[str, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        if path.name == SEED:
            continue
        if not _NUMBERED.fullmatch(path.name):
            raise MigrationFailed(f"{path}: a migration is named like 0001_what_it_does.sql")
        number = path.name[:4]
        if number in found:
            raise MigrationFailed(f"{path}: number {number} is taken by {found[number].path.name}")
        found[number] = Migration(f"{package}/{path.name}", path, path.read_text(encoding="utf-8"))
    return list(found.values())


def read_seed(folder: Path, package: str) -> Migration | None:
    """Return the demo's seed in `folder`, if there is one. Unlike a migration it may change."""
    path = folder / SEED
    return Migration(f"{package}/{SEED}", path, path.read_text(encoding="utf-8")) if path.exists() else None


def split_statements(sql: str) -> Iterator[Statement]:
    """Yield the statements of a file; the whole file when it has function bodies that only the server can parse."""
    if _OWN_BLOCKS.search(sql):
        yield Statement(sql, 1)
        return
    begin = 0
    for token in _TOKEN.finditer(sql):
        if token["end"]:
            yield from _statement(sql, begin, token.end())
            begin = token.end()
    yield from _statement(sql, begin, len(sql))


async def apply_migrations(lease: Lease, migrations: Sequence[Migration]) -> list[str]:
    """Apply what was not applied yet, and return those names.

    Raises:
        MigrationFailed: an error of the server, or an applied file that was changed.
        DatabaseUnavailable: the connection broke.
    """
    async with lease.transaction():
        await lease.execute(_LOCK)
        await lease.execute(_TABLE)
    return [migration.name for migration in migrations if await _apply(lease, migration)]


async def apply_seed(lease: Lease, seed: Migration) -> None:
    """Run the seed in one transaction. It is run at every start, so it has to change nothing the second time.

    Raises:
        MigrationFailed: an error of the server.
        DatabaseUnavailable: the connection broke.
    """
    async with lease.transaction():
        await lease.execute(_LOCK)
        await _run(lease, seed)


async def _apply(lease: Lease, migration: Migration) -> bool:
    async with lease.transaction():
        await lease.execute(_LOCK)
        applied = await lease.fetchval(_DIGEST_OF, migration.name)
        if applied is not None:
            if applied != migration.digest:
                raise MigrationFailed(
                    f"{migration.path} was changed after it had been applied to this database: "
                    "restore it and write the change into a new file"
                )
            return False
        await _run(lease, migration)
        await lease.execute(_RECORD, migration.name, migration.digest)
    return True


async def _run(lease: Lease, file: Migration) -> None:
    import asyncpg

    for statement in split_statements(file.sql):
        if _TRANSACTION_WORDS.match(statement.sql):
            raise MigrationFailed(f"{file.path}:{statement.line}: the file is one transaction already; remove this")
        try:
            await lease.execute(statement.sql)
        except asyncpg.PostgresError as error:
            raise MigrationFailed(f"{file.path}:{_line_of(statement, error)}: {_said(error)}") from error


def _line_of(statement: Statement, error: asyncpg.PostgresError) -> int:
    """Return the line that the server points at; the statement's first one when it points nowhere."""
    position = int(error.position) if error.position else 1
    return statement.line + statement.sql.count("\n", 0, position - 1)


def _said(error: asyncpg.PostgresError) -> str:
    extras = [text for text in (error.detail, error.hint) if text]
    return " · ".join([f"{error.args[0]} ({error.sqlstate})", *extras])


def _statement(sql: str, begin: int, end: int) -> Iterator[Statement]:
    skipped = _BLANK.match(sql, begin, end)
    start = skipped.end() if skipped else begin
    text = sql[start:end]
    if text.strip("; \n\t\r"):
        yield Statement(text, 1 + sql.count("\n", 0, start))
