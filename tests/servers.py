"""The real Postgres and the real Valkey or Redis that a test session starts for itself.

Both are tied to the session's life by the kernel (Linux), so that a killed pytest leaves nothing behind. The Postgres
role of the tests is an ordinary one: a superuser slips past connection limits and hides missing grants.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import psutil

from b1.embedded import process
from b1.embedded.binaries import PostgresBinaries, postgres_binaries, redis_binary
from tests.ports import free_port

T = TypeVar("T")
START_LIMIT_S = 30.0
ROLE = "b1"
FOLDER_PREFIX = "b1-tests-"
_database_numbers = itertools.count(1)


def from_outside(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a loop of its own in a thread, so that it disturbs no loop of the test."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Server:
    """A server on a free loopback port that a test may stop, kill, suspend and start again at the same address."""

    def __init__(self, folder: Path, identity: process.Identity | None) -> None:
        self.folder = folder
        self.identity = identity
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(port={self.port}, pid={self._process and self._process.pid})"

    @property
    def pid(self) -> int:
        """The server's process id; a RuntimeError while it is stopped."""
        if self._process is None:
            raise RuntimeError(f"{self!r} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start at the same port as before and wait until it answers."""
        if self.is_running:
            return
        with (self.folder / "server.log").open("ab") as log:
            self._process = process.start(
                self._command(),
                identity=self.identity,
                death_signal=signal.SIGQUIT,
                own_session=True,
                cwd=self.folder,
                output=log,
            )
        if not process.wait_until(self._answers, limit_s=START_LIMIT_S):
            self.kill()
            raise RuntimeError(f"{self!r} did not start:\n{self.log()}")

    def stop(self) -> None:
        """Stop in an orderly way; connections of clients are closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop at once, without a word to anybody."""
        self._end(signal.SIGKILL)

    def abandon(self) -> None:
        """Stop fast, without care for the data; unlike `kill` it leaves no orphans for init to reap."""
        self._end(signal.SIGQUIT)

    def suspend(self) -> None:
        """Freeze the server and all its processes: connections stay open and nothing answers."""
        for one in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):  # a backend that ended in between
                one.suspend()

    def resume(self) -> None:
        """Undo `suspend`."""
        for one in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-4000:]

    def _family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self.is_running:
            self.resume()
            process.stop(self._process, number, patience_s=10.0)
        self._process = None

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class PostgresServer(Server):
    """A Postgres whose data is a copy of a cluster that the session initialised once."""

    def __init__(self, folder: Path, identity: process.Identity | None, binaries: PostgresBinaries) -> None:
        super().__init__(folder, identity)
        self._binaries = binaries

    @property
    def url(self) -> str:
        """An empty database, as the ordinary role."""
        return self.url_of(ROLE)

    @property
    def admin_url(self) -> str:
        """The maintenance database, as the superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def url_of(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str) -> None:
        """Run each statement as the superuser, from outside of the test's loop."""
        from_outside(_execute(self.admin_url, statements))

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Return the rows of a statement run as the superuser, from outside of the test's loop."""
        return from_outside(_query(self.admin_url, statement))

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, give its URL and drop it afterwards, whoever is still connected."""
        name = f"test_{os.getpid()}_{next(_database_numbers)}"
        self.execute(f"create database {name} owner {ROLE} strategy file_copy")
        try:
            yield self.url_of(name)
        finally:
            self.start()
            self.execute(f"drop database if exists {name} with (force)")

    def _command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "60",
            "shared_buffers": "32MB",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "max_worker_processes": "0",
            "autovacuum": "off",
            "timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._binaries.postgres, "-D", self.folder / "data", *options]

    def _answers(self) -> bool:
        if not process.can_connect("127.0.0.1", self.port):
            return False
        try:
            self.execute("select 1")
        except (OSError, asyncpg.PostgresError):
            return False  # accepts connections already, says "the database system is starting up"
        return True


class RedisServer(Server):
    """A Valkey or Redis that keeps nothing."""

    def __init__(self, folder: Path, identity: process.Identity | None, binary: Path) -> None:
        super().__init__(folder, identity)
        self._binary = binary

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, *words: str | int) -> bytes:
        """Send one command on a connection of its own and return the raw reply's first line."""
        parts = [str(word).encode() for word in words]
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            wire = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
            connection.sendall(b"*%d\r\n%b" % (len(parts), wire))
            return connection.recv(4096).split(b"\r\n", 1)[0]

    def _command(self) -> list[str | Path]:
        said = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=True).stdout
        debug = [] if "v=6." in said else ["--enable-debug-command", "local"]
        plain = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        return [self._binary, *plain, "--dir", self.folder, "--repl-diskless-sync-delay", "0", *debug]

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG"
        except OSError:
            return False


class Servers:
    """Makes servers in a temporary folder, and removes everything at the end."""

    def __init__(self) -> None:
        _remove_what_killed_sessions_left()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        self._folder.chmod(0o755)  # whom the servers run as must find the way to their own, closed folders
        self._started: list[Server] = []
        self._numbers = itertools.count(1)
        self._template: Path | None = None

    def postgres(self) -> PostgresServer:
        """Start one more Postgres; FileNotFoundError when this machine has none."""
        binaries = postgres_binaries()
        identity = process.lesser_identity(binaries.postgres, self._folder / "any", owner_of=self._folder)
        template = self._template or self._initialise(binaries, identity)
        server = PostgresServer(self._new_folder(identity), identity, binaries)
        process.run([_tool("cp"), "-Rp", template, server.folder / "data"], identity=identity, cwd=server.folder)
        self._started.append(server)
        server.start()
        return server

    def redis(self) -> RedisServer:
        """Start one more Redis or Valkey; FileNotFoundError when this machine has none."""
        binary = redis_binary()
        identity = process.lesser_identity(binary, self._folder / "any", owner_of=self._folder)
        server = RedisServer(self._new_folder(identity), identity, binary)
        self._started.append(server)
        server.start()
        return server

    def discard(self, server: Server) -> None:
        """End one server and remove its files."""
        self._started.remove(server)
        server.abandon()
        shutil.rmtree(server.folder, ignore_errors=True)

    def close(self) -> None:
        """Kill every server and remove every file."""
        for server in list(self._started):
            self.discard(server)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _new_folder(self, identity: process.Identity | None) -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir(mode=0o700)
        if identity is not None:
            os.chown(folder, identity.uid, identity.gid)
        return folder

    def _initialise(self, binaries: PostgresBinaries, identity: process.Identity | None) -> Path:
        folder = self._new_folder(identity)
        data = folder / "data"
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"]
        process.run([binaries.initdb, "-D", data, *options], identity=identity, cwd=folder)
        process.run(
            [binaries.postgres, "--single", "-D", data, "-c", "fsync=off", "postgres"],
            identity=identity,
            cwd=folder,
            text=f"create role {ROLE} login\ncreate database {ROLE} owner {ROLE}\n",
        )
        self._template = data
        return data


def _remove_what_killed_sessions_left() -> None:
    """Remove the folders of sessions that could not; the kernel has ended their servers."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        with contextlib.suppress(FileNotFoundError):  # the other processes of this suite remove them too
            if pid.isdigit() and folder.stat().st_uid == os.geteuid() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"no {name} on PATH")
    return found


def port_of(url: str) -> int:
    """Return the port that `url` names."""
    port = urlsplit(url).port
    if port is None:
        raise ValueError(f"{url} names no port")
    return port


async def _execute(url: str, statements: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close(timeout=5)


async def _query(url: str, statement: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        return [dict(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close(timeout=5)
