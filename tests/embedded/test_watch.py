"""Noticing changed files, kept secrets, signals that are counted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from b1.embedded.interrupts import Interrupts
from b1.embedded.secrets import kept_secrets
from b1.embedded.watch import Watch


def test_new_changed_and_removed_sources_are_seen_once(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one.py", "two.sql", "three.py"))
    one.write_text("1")
    two.write_text("1")
    watch = Watch([tmp_path])
    one.write_text("11")
    two.unlink()
    three.write_text("1")
    assert watch.changed() == sorted([one, three, two])
    assert watch.changed() == []


@pytest.mark.parametrize("name", ["note.txt", ".venv/a.py", ".git/a.py", "__pycache__/a.py", ".b1/a.sql"])
def test_what_is_no_source_is_not_watched(tmp_path: Path, name: str) -> None:
    watch = Watch([tmp_path])
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("1")
    assert watch.changed() == []


def test_a_folder_that_goes_away_is_a_change_and_no_error(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.py").write_text("1")
    watch = Watch([inner])
    (inner / "a.py").unlink()
    inner.rmdir()
    assert watch.changed() == [inner / "a.py"]


def test_secrets_are_made_once_and_kept_for_their_owner_alone(tmp_path: Path) -> None:
    first = kept_secrets(tmp_path, {}, "ADMIN_TOKEN", "AUTH_JWT_SECRET")
    assert kept_secrets(tmp_path, {}, "ADMIN_TOKEN", "AUTH_JWT_SECRET") == first
    assert len(set(first.values())) == 2
    assert min(map(len, first.values())) >= 32
    assert [file.stat().st_mode & 0o777 for file in tmp_path.iterdir()] == [0o600]


def test_a_secret_that_is_given_is_not_made(tmp_path: Path) -> None:
    given = {"ADMIN_TOKEN": "mine", "AUTH_JWT_SECRET_FILE": "/run/secret"}
    assert kept_secrets(tmp_path, given, "ADMIN_TOKEN", "AUTH_JWT_SECRET") == {}


def test_signals_are_counted_and_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert interrupts.wait(0) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.wait(5) == 2
    assert signal.getsignal(signal.SIGTERM) is before
