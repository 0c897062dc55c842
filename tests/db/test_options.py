"""Names that follow from the URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from b1.db import DatabaseOptions, slots_directory
from b1.db.options import Address, address, dsn


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@db.example.com:6432/app?sslmode=require", Address("db.example.com", 6432, "app")),
        ("postgres://u@db.example.com", Address("db.example.com", 5432, "u")),
        ("postgresql://u@/app?host=/run/postgresql&port=5433", Address("/run/postgresql", 5433, "app")),
        ("postgresql://u@[::1]:5432/a%20b", Address("::1", 5432, "a b")),
    ],
)
def test_the_address_of_a_url(url: str, expected: Address) -> None:
    assert address(url) == expected


def test_spellings_of_this_machine_share_their_slots() -> None:
    urls = [f"postgresql://someone@{host}:5432/app" for host in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST")]
    assert len({slots_directory(url) for url in urls}) == 1


def test_other_servers_and_databases_have_other_slots_and_users_do_not_matter() -> None:
    urls = ["postgresql://u@h/app", "postgresql://u@h/other", "postgresql://u@g/app", "postgresql://u@h:5433/app"]
    assert len({slots_directory(url) for url in urls}) == 4
    assert slots_directory("postgresql://u:secret@h/app?sslmode=require") == slots_directory("postgres://v@H./app")


def test_a_name_of_a_driver_in_the_url_is_dropped() -> None:
    assert dsn("postgresql+asyncpg://u@h/app") == "postgresql://u@h/app"
    assert dsn("postgres://u+x@h/app") == "postgres://u+x@h/app"


def test_options_do_not_show_the_url(tmp_path: Path) -> None:
    assert "hunter2" not in repr(DatabaseOptions(url="postgresql://u:hunter2@h/app", slots_dir=tmp_path))
