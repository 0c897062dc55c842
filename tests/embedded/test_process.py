"""Programs that do not outlive us, and whom they run as."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from b1.embedded import process
from b1.embedded.binaries import postgres_binaries, redis_binary

PYTHON = sys.executable


def test_run_returns_what_was_printed(tmp_path: Path) -> None:
    assert process.run([PYTHON, "-c", "print(input()[::-1])"], cwd=tmp_path, text="olleh\n") == "hello\n"


def test_run_reports_a_failure_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        process.run([PYTHON, "-c", "import sys; sys.exit('no luck')"], cwd=tmp_path)
    assert failed.value.output == "no luck\n"


def test_stop_goes_from_polite_to_kill() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = process.start([PYTHON, "-c", deaf], output=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
        assert process.stop(child, signal.SIGTERM, patience_s=0.2) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its starter")
def test_a_child_that_is_tied_ends_with_its_starter() -> None:
    script = (
        "import signal, sys; from b1.embedded import process\n"
        "child = process.start([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'],"
        " death_signal=signal.SIGTERM)\n"
        "print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([PYTHON, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        lines = {starter.stdout.readline(), starter.stdout.readline()} - {"1\n"}
        starter.kill()
        # The child holds the other end of the pipe: it is at its end when both are gone.
        assert starter.stdout.read() == ""
    assert len(lines) == 1


def test_an_ordinary_user_stays_who_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert process.lesser_identity(tmp_path, owner_of=tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")
def test_root_becomes_nobody_and_takes_one_capability_when_a_folder_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    found = process.lesser_identity(tmp_path / "data", owner_of=tmp_path)
    assert found is not None
    assert (found.uid != 0, found.capability) == (True, process.CAP_DAC_READ_SEARCH)


@pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")
def test_the_lesser_user_has_that_capability_and_no_other(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    identity = process.Identity(65534, 65534, process.CAP_DAC_READ_SEARCH)
    said = process.run(["/bin/cat", "/proc/self/status"], identity=identity, cwd=tmp_path)
    found = {line.split(":")[0]: line.split()[1:] for line in said.splitlines() if line.startswith(("Uid", "CapEff"))}
    assert found == {"Uid": ["65534"] * 4, "CapEff": [f"{1 << process.CAP_DAC_READ_SEARCH:016x}"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")
def test_with_it_programs_below_a_closed_folder_are_found_and_run(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "program"
    program.write_text('#!/bin/sh\ntest -x "$0" && id -u\n')  # `test -x` is access(2), as initdb asks
    program.chmod(0o755)
    identity = process.Identity(65534, 65534, process.CAP_DAC_READ_SEARCH)
    assert process.run([program], identity=identity, cwd=closed) == "65534\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")
def test_root_without_capabilities_is_told_which_folder_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(process, "_is_permitted", lambda capability: False)
    with pytest.raises(PermissionError, match="cannot look below"):
        process.lesser_identity(tmp_path / "data", owner_of=tmp_path)


def test_a_taken_port_cannot_be_bound() -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert not process.can_bind("127.0.0.1", port)
        assert process.can_connect("127.0.0.1", port)
    assert process.can_bind("127.0.0.1", port)


def test_binaries_are_chosen_by_the_datas_version() -> None:
    found = postgres_binaries()
    assert postgres_binaries(found.major) == found
    with pytest.raises(FileNotFoundError, match=rf"no Postgres 9, .*seen: .*{found.major} in "):
        postgres_binaries(9)


def test_a_redis_for_the_tests_can_be_run() -> None:
    said = subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    assert "v=" in said
