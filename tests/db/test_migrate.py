"""Migrations: order, once each, all or nothing, and messages that name the line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from b1.db import Database, DatabaseOptions, Lease
from b1.db.migrate import (
    LIBRARY,
    LIBRARY_FOLDER,
    Migration,
    MigrationFailed,
    apply_migrations,
    apply_seed,
    read_migrations,
    read_seed,
    split_statements,
)


@asynccontextmanager
async def leased(url: str, slots: Path) -> AsyncIterator[Lease]:
    database = Database(DatabaseOptions(url=url, slots_dir=slots, role="migrate"))
    await database.start()
    try:
        async with database.acquire() as lease:
            yield lease
    finally:
        await database.aclose()


@pytest.fixture
async def lease(postgres_url: str, tmp_path: Path) -> AsyncIterator[Lease]:
    async with leased(postgres_url, tmp_path / "slots") as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    return made


async def read(folder: Path, package: str = "app") -> list[Migration]:
    return await asyncio.to_thread(read_migrations, folder, package)


def parts(sql: str) -> list[tuple[int, str]]:
    return [(found.line, found.sql) for found in split_statements(sql)]


def test_a_folder_that_does_not_exist_has_no_migrations(tmp_path: Path) -> None:
    assert read_migrations(tmp_path / "absent", "app") == []


def test_files_come_in_order_under_their_packages_name(folder: Path) -> None:
    for name in ("0010_later.sql", "0002_first.sql", "demo.sql", "notes.txt"):
        (folder / name).write_text("select 1;")
    assert [found.name for found in read_migrations(folder, "app")] == ["app/0002_first.sql", "app/0010_later.sql"]


@pytest.mark.parametrize("names", [("init.sql",), ("0001_a.sql", "0001_b.sql")])
def test_a_name_without_a_number_of_its_own_is_refused(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).write_text("select 1;")
    with pytest.raises(MigrationFailed, match=names[-1].replace(".", r"\.")):
        read_migrations(folder, "app")


def test_the_digest_does_not_depend_on_line_ends(folder: Path) -> None:
    (folder / "0001_a.sql").write_bytes(b"select 1;\nselect 2;\n")
    unix = read_migrations(folder, "app")[0].digest
    (folder / "0001_a.sql").write_bytes(b"select 1;\r\nselect 2;\r\n")
    assert read_migrations(folder, "app")[0].digest == unix


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select 1;\n\n-- a; comment\nselect 2", [(1, "select 1;"), (4, "select 2")]),
        ("select ';';select $$a;b$$;", [(1, "select ';';"), (1, "select $$a;b$$;")]),
        ("select $f$ $$ ; $$ $f$;", [(1, "select $f$ $$ ; $$ $f$;")]),
        ('/* one;\ntwo */ select ";" ;', [(2, 'select ";" ;')]),
        ("select E'it\\'s; fine';", [(1, "select E'it\\'s; fine';")]),
        ("select 'it''s; fine';", [(1, "select 'it''s; fine';")]),
        (";;\n-- nothing\n", []),
        ("create function f() begin atomic select 1; end;", [(1, "create function f() begin atomic select 1; end;")]),
    ],
)
def test_statements_end_at_semicolons_that_are_not_hidden(sql: str, expected: list[tuple[int, str]]) -> None:
    assert parts(sql) == expected


async def test_each_file_is_applied_once(lease: Lease, folder: Path) -> None:
    (folder / "0001_a.sql").write_text("create table a (n int); insert into a values (1);")
    migrations = await read(folder)
    assert await apply_migrations(lease, migrations) == ["app/0001_a.sql"]
    assert await apply_migrations(lease, migrations) == []
    assert await lease.fetchval("select count(*) from a") == 1


async def test_a_new_file_is_applied_after_the_old_ones(lease: Lease, folder: Path) -> None:
    (folder / "0001_a.sql").write_text("create table a (n int);")
    await apply_migrations(lease, await read(folder))
    (folder / "0002_b.sql").write_text("alter table a add column m int;")
    assert await apply_migrations(lease, await read(folder)) == ["app/0002_b.sql"]


async def test_a_changed_file_stops_everything(lease: Lease, folder: Path) -> None:
    (folder / "0001_a.sql").write_text("create table a (n int);")
    await apply_migrations(lease, await read(folder))
    (folder / "0001_a.sql").write_text("create table a (n bigint);")
    with pytest.raises(MigrationFailed, match=r"0001_a\.sql was changed"):
        await apply_migrations(lease, await read(folder))


async def test_a_failing_file_leaves_nothing_and_names_its_line(lease: Lease, folder: Path) -> None:
    (folder / "0001_a.sql").write_text("create table kept (n int);")
    (folder / "0002_b.sql").write_text("create table gone (n int);\n\nselect 1,\n  nonsense\nfrom gone;\n")
    with pytest.raises(MigrationFailed, match=r"0002_b\.sql:4: .*nonsense"):
        await apply_migrations(lease, await read(folder))
    assert await lease.fetchval("select to_regclass('gone') is null and to_regclass('kept') is not null")


async def test_an_error_without_a_position_names_the_line_of_its_statement(lease: Lease, folder: Path) -> None:
    (folder / "0001_a.sql").write_text(
        "create table a (n int unique);\ninsert into a values (1);\n\ninsert into a values (1);"
    )
    with pytest.raises(MigrationFailed, match=r"0001_a\.sql:4: duplicate key .*23505"):
        await apply_migrations(lease, await read(folder))


async def test_a_file_that_commits_by_itself_is_refused(lease: Lease, folder: Path) -> None:
    (folder / "0001_a.sql").write_text("create table a (n int);\nCOMMIT;")
    with pytest.raises(MigrationFailed, match=r"0001_a\.sql:2: .*one transaction already"):
        await apply_migrations(lease, await read(folder))
    assert await lease.fetchval("select to_regclass('a') is null")


async def test_a_file_may_be_empty(lease: Lease, folder: Path) -> None:
    (folder / "0001_a.sql").write_text("-- nothing yet\n")
    assert await apply_migrations(lease, await read(folder)) == ["app/0001_a.sql"]


async def test_two_hosts_that_start_at_once_apply_each_file_once(
    postgres_url: str, tmp_path: Path, folder: Path
) -> None:
    for number in range(1, 6):
        (folder / f"000{number}_a.sql").write_text(f"create table a{number} (n int);")
    migrations = await read(folder)

    async def one_host(number: int) -> list[str]:
        async with leased(postgres_url, tmp_path / str(number)) as lease:
            return await apply_migrations(lease, migrations)

    first, second = await asyncio.gather(one_host(1), one_host(2))
    assert sorted(first + second) == [migration.name for migration in migrations]


async def test_the_seed_is_run_every_time(lease: Lease, tmp_path: Path) -> None:
    await lease.execute("create table a (n int primary key, runs int)")
    (tmp_path / "demo.sql").write_text("insert into a values (1, 1) on conflict (n) do update set runs = a.runs + 1;")
    seed = await asyncio.to_thread(read_seed, tmp_path, "app")
    assert seed is not None
    await apply_seed(lease, seed)
    await apply_seed(lease, seed)
    assert await lease.fetchval("select runs from a") == 2


async def test_the_librarys_own_migrations_apply(postgres_url: str, tmp_path: Path) -> None:
    migrations = await read(LIBRARY_FOLDER, LIBRARY)
    async with leased(postgres_url, tmp_path) as lease:
        assert await apply_migrations(lease, migrations) == [migration.name for migration in migrations]
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
    finally:
        await connection.close()
    assert all(row["tablename"].startswith("b1_") for row in tables)
