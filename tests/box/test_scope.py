"""When systemd is asked for a scope, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from b1.box.scope import scope_command


def program_in(folder: Path) -> Path:
    program = folder / "bin/systemd-run"
    program.parent.mkdir()
    program.touch(mode=0o755)
    return program


def test_systemd_is_asked_for_a_delegated_scope_of_the_user(tmp_path: Path) -> None:
    program = program_in(tmp_path)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "run/user/1000/systemd").mkdir(parents=True)
    environ = {"PATH": str(tmp_path / "bin"), "XDG_RUNTIME_DIR": "/run/user/1000"}
    options = ["--scope", "--quiet", "--collect", "--property=Delegate=yes", "--", "x"]
    assert scope_command(["x"], environ=environ, is_root=False, root=tmp_path) == [str(program), "--user", *options]
    assert scope_command(["x"], environ=environ, is_root=True, root=tmp_path) == [str(program), *options]


@pytest.mark.parametrize("missing", ["program", "system", "session"])
def test_systemd_is_left_alone_where_it_would_not_answer(tmp_path: Path, missing: str) -> None:
    environ = {"PATH": str(tmp_path / "bin"), "XDG_RUNTIME_DIR": "/run/user/1000"}
    if missing != "program":
        program_in(tmp_path)
    if missing != "system":
        (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert scope_command(["x"], environ=environ, is_root=False, root=tmp_path) is None
