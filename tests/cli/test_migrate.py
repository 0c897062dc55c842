"""`b1 migrate` as startup scripts see it: exit codes, and nothing that keeps the application from starting."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

import b1
from b1.cli.main import main
from tests.ports import free_port
from tests.servers import PostgresServer, from_outside

SEED = "insert into items values (1) on conflict do nothing;"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with one migration and a seed, in the current folder; importing it would end the test."""
    (tmp_path / "small_app.py").write_text("raise SystemExit('imported')")
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "0001_items.sql").write_text("create table items (n int primary key);")
    (migrations / "demo.sql").write_text(SEED)
    monkeypatch.chdir(tmp_path)
    return "small_app:app"


def rows(url: str, query: str) -> list[object]:
    async def once() -> list[object]:
        connection = await asyncpg.connect(url)
        try:
            return [row[0] for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return from_outside(once())


def test_without_a_database_there_is_nothing_to_do(app: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", app]) == 0
    assert capsys.readouterr().out == "b1 migrate: no DATABASE_URL, nothing to do\n"


def test_the_librarys_files_come_before_the_apps(
    app: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert main(["migrate", app]) == 0
    names = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert names[-1] == "small_app/0001_items.sql"
    assert all(name.startswith("b1/") for name in names[:-1])
    assert rows(postgres_url, "select name from b1_migrations order by applied_at, name") == names


def test_the_second_time_changes_nothing(
    app: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    main(["migrate", app])
    capsys.readouterr()
    assert main(["migrate", app]) == 0
    assert capsys.readouterr().out == "b1 migrate: the schema is up to date\n"
    assert main(["migrate", app, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("demo", "expected"), [("0", []), ("1", [1])])
def test_the_seed_is_for_the_demo_alone(
    app: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, demo: str, expected: list[int]
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("B1_DEMO", demo)
    assert [main(["migrate", app]), main(["migrate", app])] == [0, 0]
    assert rows(postgres_url, "select n from items") == expected


def test_a_wrong_file_ends_with_1_and_names_file_and_line(
    app: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("migrations/0002_wrong.sql").write_text("select 1;\nselect nonsense;\n")
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    assert main(["migrate", app]) == 1
    assert '0002_wrong.sql:2: column "nonsense" does not exist' in capsys.readouterr().err


def test_without_postgres_it_gives_up_after_a_while_and_lets_the_app_start(
    app: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://b1@127.0.0.1:{free_port()}/b1")
    assert main(["migrate", app, "--wait", "0.5"]) == 0
    assert "no database within 0.5 s" in capsys.readouterr().err


@pytest.mark.real
def test_it_waits_for_a_postgres_that_is_starting(
    app: str, own_postgres: Callable[[], PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_postgres()
    server.stop()
    monkeypatch.setenv("DATABASE_URL", server.url)
    monkeypatch.setenv("PYTHONPATH", str(Path(b1.__file__).parents[1]))
    with subprocess.Popen([sys.executable, "-m", "b1", "migrate", app], stdout=subprocess.PIPE, text=True) as waiting:
        server.start()
        said, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, "applied small_app/0001_items.sql" in said) == (0, True)
