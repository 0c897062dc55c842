"""The private Postgres: made once, kept, closed to strangers, never left behind."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from b1.embedded import postgres as module
from b1.embedded import process
from b1.embedded.postgres import EmbeddedPostgres, PostgresAbsent
from b1.errors import ConfigurationError
from tests.servers import from_outside

pytestmark = pytest.mark.real


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / ".b1"


@pytest.fixture
def embedded(state: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(state, say=lambda sentence: None)
    yield server
    server.stop()


def ask(url: str, query: str) -> object:
    async def once() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return from_outside(once())


def test_the_second_start_finds_the_data_at_the_same_address(embedded: EmbeddedPostgres) -> None:
    first = embedded.start()
    ask(first, "create table kept (n int)")
    embedded.stop()
    second = embedded.start()
    assert (second, ask(second, "select to_regclass('kept')::text")) == (first, "kept")


def test_it_speaks_utf8_and_the_apps_role_is_an_ordinary_one(embedded: EmbeddedPostgres) -> None:
    url = embedded.start()
    assert ask(url, "select current_setting('server_encoding')") == "UTF8"
    assert ask(url, "select rolsuper from pg_roles where rolname = current_user") is False


@pytest.mark.parametrize("user", ["postgres", "b1"])
def test_nobody_gets_in_without_the_password(embedded: EmbeddedPostgres, user: str) -> None:
    port = embedded.start().rsplit(":", 1)[1]
    with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
        ask(f"postgresql://{user}:wrong@127.0.0.1:{port}", "select 1")


def test_its_password_is_readable_for_its_owner_alone(embedded: EmbeddedPostgres, state: Path) -> None:
    embedded.start()
    assert (state / module.CONTROL_FILE).stat().st_mode & 0o777 == 0o600


def test_a_second_start_in_the_same_folder_is_refused_with_a_way_out(embedded: EmbeddedPostgres, state: Path) -> None:
    embedded.start()
    with pytest.raises(ConfigurationError, match=rf"pid {os.getpid()}.*B1_STATE_DIR"):
        EmbeddedPostgres(state).start()
    assert embedded.is_running


def test_after_the_end_the_folder_is_free_again(embedded: EmbeddedPostgres, state: Path) -> None:
    embedded.start()
    embedded.stop()
    second = EmbeddedPostgres(state)
    second.start()
    second.stop()
    assert not embedded.is_running


def test_a_taken_port_is_replaced(embedded: EmbeddedPostgres, state: Path) -> None:
    import socket

    first = embedded.start()
    embedded.stop()
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", int(first.rsplit(":", 1)[1].split("/")[0])))
        thief.listen()
        second = embedded.start()
        assert second != first
        assert ask(second, "select 1") == 1


def test_an_interrupted_first_start_is_repeated(embedded: EmbeddedPostgres, state: Path) -> None:
    half = state / "postgres" / str(module.postgres_binaries().major) / "fresh"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("half")
    assert ask(embedded.start(), "select 1") == 1


def test_data_of_a_version_without_binaries_is_not_touched(embedded: EmbeddedPostgres, state: Path) -> None:
    old = state / "postgres" / "9" / "data"
    old.mkdir(parents=True)
    (old / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresAbsent, match="no Postgres 9, which made the data"):
        embedded.start()
    assert (old / "PG_VERSION").exists()


def test_a_damaged_state_file_says_what_to_remove(embedded: EmbeddedPostgres, state: Path) -> None:
    embedded.start()
    embedded.stop()
    (state / module.CONTROL_FILE).write_text("{")
    with pytest.raises(ConfigurationError, match=r"postgres\.json is damaged.*rm -r"):
        embedded.start()


def supervisor_that_was_killed(state: Path, *, tied: bool) -> int:
    """Start a Postgres from another process, kill that one and return the server's pid."""
    script = (
        "import sys, time; from pathlib import Path; from b1.embedded import postgres, process\n"
        "start = process.start\n"
        "if sys.argv[2] == 'loose': process.start = lambda *a, **k: start(*a, **k | {'death_signal': None})\n"
        "server = postgres.EmbeddedPostgres(Path(sys.argv[1])); server.start(); print(server.pid, flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(state), "tied" if tied else "loose"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        child.kill()
    return pid


def is_living(pid: int) -> bool:
    """Return whether `pid` runs; a zombie that waits for init does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "(zombie)" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc").exists() else True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its starter")
def test_a_killed_supervisor_takes_its_postgres_along(state: Path) -> None:
    pid = supervisor_that_was_killed(state, tied=True)
    assert process.wait_until(lambda: not is_living(pid), limit_s=20)
    assert "database system is shut down" in (state / "postgres.log").read_text()


def test_a_postgres_that_a_crash_left_is_taken_over(state: Path) -> None:
    left = supervisor_that_was_killed(state, tied=False)
    assert is_living(left)
    said: list[str] = []
    embedded = EmbeddedPostgres(state, say=said.append)
    try:
        assert ask(embedded.start(), "select 1") == 1
    finally:
        embedded.stop()
    assert not is_living(left)
    assert said == [f"taking over from a Postgres that an earlier start left (pid {left})"]


def test_a_pid_file_whose_number_belongs_to_somebody_else_is_no_obstacle(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    embedded.stop()
    data = next(embedded.home.glob("*/data"))
    (data / "postmaster.pid").write_text(f"{os.getppid()}\n{data}\n")
    assert ask(embedded.start(), "select 1") == 1


def test_ctrl_c_for_the_whole_group_does_not_reach_it(embedded: EmbeddedPostgres) -> None:
    url = embedded.start()
    assert embedded.pid is not None
    assert os.getsid(embedded.pid) != os.getsid(0)
    os.killpg(os.getpgid(embedded.pid), signal.SIGCONT)  # a group of its own: nothing of ours gets this
    assert ask(url, "select 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs Postgres as itself; this is about root")
def test_root_works_below_a_closed_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    embedded = EmbeddedPostgres(tmp_path / "inner" / ".b1", say=lambda sentence: None)
    (tmp_path / "inner").mkdir()
    try:
        assert ask(embedded.start(), "select 1") == 1
        assert embedded.pid is not None
        assert Path(f"/proc/{embedded.pid}").stat().st_uid != 0
    finally:
        embedded.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs Postgres as itself; this is about root")
def test_root_without_that_capability_uses_the_temporary_folder_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(process, "_is_permitted", lambda capability: False)
    said: list[str] = []
    embedded = EmbeddedPostgres(tmp_path / ".b1", say=said.append)
    try:
        if is_open_to_all(module.postgres_binaries().postgres):
            assert ask(embedded.start(), "select 1") == 1
        else:  # this very checkout lies below a closed folder, and so does its Postgres
            with pytest.raises(PostgresAbsent, match="cannot look below"):
                embedded.start()
        assert len(said) == 1
        assert str(embedded.home) in said[0]
        assert tmp_path not in embedded.home.parents
    finally:
        embedded.stop()
        process.run(["/bin/rm", "-r", embedded.home], cwd=tmp_path)


def is_open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the data to somebody else")
def test_root_runs_it_as_the_owner_of_the_folder(state: Path) -> None:
    state.parent.chmod(0o755)
    owner = next(user for user in pwd.getpwall() if user.pw_uid != 0 and user.pw_name != "nobody")
    os.chown(state.parent, owner.pw_uid, owner.pw_gid)
    embedded = EmbeddedPostgres(state, say=lambda sentence: None)
    try:
        embedded.start()
        assert Path(f"/proc/{embedded.pid}").stat().st_uid == owner.pw_uid
    finally:
        embedded.stop()
