"""`b1 dev` for real: it starts, replaces, and above all ends with nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import b1
from b1.cli.dev import development_environment, is_sound
from b1.cli.greeting import greeting
from b1.cli.target import Target
from b1.embedded import process
from b1.settings import Settings
from tests.ports import free_port

APP = """
from fastapi import FastAPI
app = FastAPI()
@app.get("/version")
async def version(): return "one"
"""
READY_LIMIT_S = 60.0


def test_development_has_defaults_that_a_given_value_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = development_environment("plain:app", {"B1_DEMO": "0", "ADMIN_TOKEN": "mine"})
    assert {name: found[name] for name in ("B1_ENV", "B1_DEMO", "HOST", "ADMIN_TOKEN", "B1_STATE_DIR")} == {
        "B1_ENV": "development",
        "B1_DEMO": "0",
        "HOST": "127.0.0.1",
        "ADMIN_TOKEN": "mine",
        "B1_STATE_DIR": str(tmp_path / ".b1"),
    }
    assert Settings.from_env(found).auth_jwt_secret is not None


def test_no_secret_is_made_for_production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = development_environment(None, {"B1_ENV": "production"})
    assert {"ADMIN_TOKEN", "AUTH_JWT_SECRET", "B1_DEMO"} & found.keys() == set()


def test_a_file_that_cannot_be_compiled_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1\ndef f(:\n")
    assert not is_sound([file])
    assert f"{file}:2: invalid syntax" in capsys.readouterr().out
    file.unlink()
    assert is_sound([file, tmp_path / "b.sql"])


def test_the_greeting_tells_where_how_and_the_budget(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "demo.txt").write_text("password changeme\nuser@example.com  MEMBER\n")
    settings = Settings.from_env({"ADMIN_TOKEN": "the-token", "B1_DEMO": "1"})
    said = greeting(settings, Target("a:app", tmp_path / "a.py"), address="http://here:1", postgres="private")
    for part in ("http://here:1/dashboard", "the-token", "3 Postgres", "2 Redis", "user@example.com  MEMBER"):
        assert part in said


class Run:
    """One `b1 dev` in a session of its own, as a terminal would give it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.log = folder / "dev.log"
        self.log.unlink(missing_ok=True)
        environment = {**os.environ, "PORT": str(port), "PYTHONPATH": str(Path(b1.__file__).parents[1])}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "b1", "dev", "plain_one:app"],
                cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET; status 0 without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code, ""
        except OSError:
            return 0, ""

    def wait(self, path: str, expected: str) -> None:
        answered = process.wait_until(lambda: self.get(path)[1] == expected, limit_s=READY_LIMIT_S, every_s=0.1)
        assert answered, self.said()

    def wait_said(self, words: str) -> None:
        assert process.wait_until(lambda: words in self.said(), limit_s=READY_LIMIT_S, every_s=0.1), self.said()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, number: signal.Signals, *, group: bool = True) -> int:
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self.process.wait(20)


def left_running(folder: Path) -> list[str]:
    """Return the command lines of living processes that work in or name the folder."""
    found = []
    for one in psutil.process_iter():
        try:
            words = " ".join(one.cmdline())
            if one.status() != psutil.STATUS_ZOMBIE and (str(folder) in words or str(folder) in one.cwd()):
                found.append(words)
        except psutil.Error:
            continue  # it has just ended
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose private Postgres is made once for all tests here."""
    return tmp_path_factory.mktemp("dev")


@pytest.fixture
def folder(home: Path) -> Iterator[Path]:
    (home / "plain_one.py").write_text(APP)
    yield home
    assert process.wait_until(lambda: not left_running(home), limit_s=20), left_running(home)


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    one = Run(folder, free_port())
    try:
        one.wait("/version", '"one"')
        one.wait_said("Ctrl-C stops everything")
        yield one
    finally:
        if one.process.poll() is None:
            one.end(signal.SIGINT)


@pytest.mark.real
@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_it_ends_cleanly_with_nothing_left(run: Run, number: signal.Signals, group: bool) -> None:
    assert run.end(number, group=group) == 0
    assert left_running(run.folder) == []


@pytest.mark.real
def test_killed_it_takes_everything_along_and_the_next_start_works(run: Run) -> None:
    run.end(signal.SIGKILL, group=False)
    again = Run(run.folder, run.port)
    again.wait_said("Ctrl-C stops everything")
    assert again.end(signal.SIGINT) == 0


@pytest.mark.real
def test_a_second_one_in_the_same_folder_is_refused(run: Run) -> None:
    second = Run(run.folder, free_port())
    assert second.process.wait(READY_LIMIT_S) == 2
    assert f"another b1 dev (pid {run.process.pid})" in second.said()


@pytest.mark.real
def test_a_changed_file_replaces_the_worker_and_a_broken_one_does_not(run: Run) -> None:
    file = run.folder / "plain_one.py"
    sound = file.read_text()
    file.write_text(sound.replace("one", "two"))
    run.wait("/version", '"two"')
    file.write_text("def broken(:\n")
    run.wait_said("the running worker stays")
    assert run.get("/version") == (200, '"two"')


@pytest.mark.real
def test_an_app_that_stops_loading_goes_on_as_it_was_until_it_loads_again(run: Run) -> None:
    file = run.folder / "plain_one.py"
    sound = file.read_text()
    file.write_text("nonsense\n")
    run.wait_said("goes on.")
    run.wait("/version", '"one"')
    file.write_text(sound.replace("one", "three"))
    run.wait("/version", '"three"')


@pytest.mark.real
def test_an_app_that_never_loads_ends_it_with_an_error(folder: Path) -> None:
    (folder / "plain_one.py").write_text("nonsense\n")
    run = Run(folder, free_port())
    assert run.process.wait(READY_LIMIT_S) == 3
    assert "name 'nonsense' is not defined" in run.said()


@pytest.mark.real
def test_interrupted_while_it_starts_it_leaves_nothing(folder: Path) -> None:
    for word in ("applied", "Booting worker", "Ctrl-C"):
        run = Run(folder, free_port())
        process.wait_until(lambda run=run, word=word: word in run.said(), limit_s=1.0)  # type: ignore[misc]
        assert run.end(signal.SIGTERM, group=False) in (0, -signal.SIGTERM)
        assert process.wait_until(lambda: not left_running(folder), limit_s=20), left_running(folder)
