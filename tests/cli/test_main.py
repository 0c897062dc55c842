"""The tree of commands: exit codes, messages, and how little a verb imports."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from b1.cli import run
from b1.cli.main import VERBS, main
from b1.cli.run import environment_for, gunicorn_command
from b1.settings import Settings

HEAVY = {"asyncpg", "fastapi", "starlette", "redis", "uvicorn", "gunicorn", "pydantic"}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert VERBS[verb][1:] in " ".join(capsys.readouterr().out.split())


def test_an_unknown_verb_ends_with_2() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fly"])
    assert ended.value.code == 2


def test_a_wrong_setting_ends_with_2_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("B1_DEM", "1")
    assert main(["migrate"]) == 2
    assert capsys.readouterr().err == "b1 migrate: B1_DEM='1' is not a setting of b1: did you mean B1_DEMO?\n"


def test_run_refuses_an_app_that_does_not_exist_before_it_becomes_gunicorn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "absent_one:app"]) == 2
    assert "no module 'absent_one'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_imports_a_framework_or_a_driver(verb: str) -> None:
    script = f"import sys, b1.cli.main, b1.cli.{verb}; print(*sorted({HEAVY} & sys.modules.keys()))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == []


def test_the_address_is_open_unless_host_says_otherwise() -> None:
    given = {"PORT": "9000"}
    assert gunicorn_command(Settings.from_env(given))[-2] == "0.0.0.0:9000"
    assert gunicorn_command(Settings.from_env(given | {"HOST": "::1"}))[-2] == "[::1]:9000"


def test_one_worker_stands_on_the_command_line_where_variables_cannot_change_it() -> None:
    command = gunicorn_command(Settings.from_env({}))
    assert command[command.index("--workers") + 1] == "1"


def test_the_allocators_settings_are_there_before_the_server_starts_and_can_be_overridden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}
    (tmp_path / "plain_two.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setattr(os, "execve", lambda path, words, environment: given.update(environment))
    run.run(argparse.Namespace(app="plain_two:app"))
    assert (given["MALLOC_ARENA_MAX"], given["MALLOC_TRIM_THRESHOLD_"]) == ("1", "131072")


def test_the_folder_of_the_command_comes_first_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment_for("plain:app", {"PYTHONPATH": f"/somewhere{os.pathsep}{tmp_path}"})
    assert (found["B1_APP"], found["PYTHONPATH"]) == ("plain:app", f"{tmp_path}{os.pathsep}/somewhere")
