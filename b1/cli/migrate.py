"""`b1 migrate [APP]`: bring the schema up to date, seed the demo, and never keep the application from starting.

A database that cannot be reached is no failure here: the application starts without it and says so at /ready. A file
that cannot be applied is one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

from b1.cli.target import Target, add_app_argument, find_target
from b1.db.migrate import (
    LIBRARY,
    LIBRARY_FOLDER,
    Migration,
    MigrationFailed,
    apply_migrations,
    apply_seed,
    read_migrations,
    read_seed,
)
from b1.errors import DatabaseBusy, DatabaseUnavailable
from b1.settings import Secret, Settings

if TYPE_CHECKING:
    from b1.db import Database, Lease

PATIENCE_S = 20.0
AGAIN_S = 0.25
STATEMENT_LIMIT_S = 900.0  # an index on a large table is slow work, not a stuck query


class Files(NamedTuple):
    """What there is to apply."""

    migrations: list[Migration]
    seed: Migration | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_app_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="say nothing when there is nothing to do")
    parser.add_argument(
        "--wait", type=float, default=PATIENCE_S, metavar="SECONDS", help="for Postgres (default: %(default)g)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Apply the library's migrations, then the application's, then the demo's seed if that is on."""
    environ = dict(os.environ)
    if arguments.app is not None:
        environ["B1_APP"] = arguments.app
    settings = Settings.from_env(environ)
    logging.getLogger("b1").addHandler(logging.NullHandler())  # what there is to say about the database is said below
    if settings.database_url is None:
        _say(arguments, "no DATABASE_URL, nothing to do")
        return 0
    try:
        files = read_files(find_target(settings.app), demo=settings.demo)
        done = asyncio.run(migrate(_database(settings, settings.database_url), files, patience_s=arguments.wait))
    except MigrationFailed as failed:
        print(f"b1 migrate: {failed}", file=sys.stderr)
        return 1
    except (DatabaseUnavailable, DatabaseBusy) as away:
        sentence = f"no database within {arguments.wait:g} s ({away}); going on without, the schema may be old"
        print(f"b1 migrate: {sentence}", file=sys.stderr)
        return 0
    for name in done:
        print(f"b1 migrate: applied {name}")
    if not done:
        _say(arguments, "the schema is up to date")
    return 0


def read_files(target: Target, *, demo: bool) -> Files:
    """Return the library's migrations, the application's, and the seed for a demo.

    Raises:
        MigrationFailed: a file's name is not one of a migration.
    """
    migrations = [*read_migrations(LIBRARY_FOLDER, LIBRARY), *read_migrations(target.migrations, target.package)]
    return Files(migrations, read_seed(target.migrations, target.package) if demo else None)


async def migrate(database: Database, files: Files, *, patience_s: float) -> list[str]:
    """Apply what is missing on one of the host's connections, and return the names. Starts and closes `database`.

    Raises:
        MigrationFailed: a file cannot be applied.
        DatabaseUnavailable, DatabaseBusy: no connection within `patience_s`.
    """
    await database.start()
    try:
        async with AsyncExitStack() as stack:
            lease = await _acquire(database, stack, patience_s)
            done = await apply_migrations(lease, files.migrations)
            if files.seed is not None:
                await apply_seed(lease, files.seed)
    finally:
        await database.aclose()
    return done


def _database(settings: Settings, secret: Secret) -> Database:
    from b1.db import Database, DatabaseOptions, slots_directory

    url = secret.reveal()
    return Database(
        DatabaseOptions(
            url=url,
            connections=settings.db_connections,
            slots_dir=slots_directory(url),
            role="migrate",
            statement_timeout_s=STATEMENT_LIMIT_S,
        )
    )


async def _acquire(database: Database, stack: AsyncExitStack, patience_s: float) -> Lease:
    end_s = time.monotonic() + patience_s
    while True:
        left_s = end_s - time.monotonic()
        try:
            return await stack.enter_async_context(
                database.acquire(priority="critical", timeout_s=max(left_s, AGAIN_S))
            )
        except DatabaseUnavailable:
            # The pool refuses at once while the server is away; this command has nothing better to do than to wait.
            if left_s <= AGAIN_S:
                raise
            await asyncio.sleep(AGAIN_S)


def _say(arguments: argparse.Namespace, sentence: str) -> None:
    if not arguments.quiet:
        print(f"b1 migrate: {sentence}")
