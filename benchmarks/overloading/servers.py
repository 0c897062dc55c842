"""The contenders' commands, each with one worker on one core, and a running one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, clean_environment

from b1.embedded import process

START_LIMIT_S = 40.0
STOP_LIMIT_S = 10.0
OUR_ENVIRONMENT = {
    "AUTH_JWT_SECRET": "a secret of the benchmark, good for nothing else",
    "B1_LIMIT_SCALE": "1000000",  # every limit is decided and none refuses
    "LOG_LEVEL": "warning",
}
LIMIT = 64  # `limit_concurrency`: between one place, which refuses much that could be served, and none


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to be measured.

    Attributes:
        key: its name on the command line.
        command: makes the command from a port.
        needs_postgres: it is given a DATABASE_URL.
    """

    key: str
    name: str
    command: Callable[[int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False
    needs_postgres: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A running contender."""

    contender: Contender
    cores: Cores
    pid: int
    port: int
    path: Path

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.path.read_text(errors="replace")

    def core_s(self) -> tuple[float, float]:
        """Return for how long its threads ran, and for how long they could have run and others had the core."""
        ran_s = waited_s = 0.0
        for pid in (self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))):
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):  # it ended meanwhile
                    ran, waited, _ = file.read_text().split()
                    ran_s, waited_s = ran_s + int(ran) / 1e9, waited_s + int(waited) / 1e9
        return ran_s, waited_s


def contenders() -> dict[str, Contender]:
    """Return all by key.

    Raises:
        subprocess.CalledProcessError: the peers are not installed yet and could not be.
    """
    return {one.key: one for one in (*of_this_environment(), *_peers())}


def of_this_environment() -> Iterator[Contender]:
    """Yield b1 under its production command, and what else needs no peer."""
    command = [sys.executable, "-m", "b1", "run", "overloading.ours:app"]
    yield Contender("b1", "b1", lambda _: command, OUR_ENVIRONMENT, is_ours=True)
    yield Contender("b1-db", "b1, b1.db", lambda _: command, OUR_ENVIRONMENT, is_ours=True, needs_postgres=True)
    # asyncpg is in our own environment and not in the peers'; uvicorn is the same in both.
    pooled = [sys.executable, *_uvicorn("overloading.pooled:app")]
    yield Contender(
        "asyncpg", "uvicorn, asyncpg pool of 3", lambda port: [*pooled, "--port", str(port)], needs_postgres=True
    )


def _peers() -> Iterator[Contender]:
    python = str(peers_python())
    app = "overloading.bare:app"
    # uvloop and httptools are installed there: each takes the fastest it knows.
    stock = [python, *_uvicorn(app)]
    gunicorn = [python, "-m", "gunicorn", "--workers", "1", "--worker-class", "asgi", "--no-control-socket", app]
    granian = [python, "-m", "granian", "--interface", "asgi", "--workers", "1", "--host", "127.0.0.1", "--no-ws", app]
    yield Contender("uvicorn", "uvicorn", lambda port: [*stock, "--port", str(port)])
    yield Contender(
        "uvicorn-limited",
        f"uvicorn --limit-concurrency {LIMIT}",
        lambda port: [*stock, "--limit-concurrency", str(LIMIT), "--port", str(port)],
    )
    yield Contender("gunicorn", "gunicorn -k asgi", lambda port: [*gunicorn, "--bind", f"127.0.0.1:{port}"])
    yield Contender("granian", "granian", lambda port: [*granian, "--port", str(port)])


def _uvicorn(app: str) -> list[str]:
    return ["-m", "uvicorn", app, "--host", "127.0.0.1", "--no-access-log", "--log-level", "warning"]


@contextmanager
def running(contender: Contender, cores: Cores, database_url: str = "") -> Iterator[Server]:
    """Serve it, its whole tree on the server's core.

    Raises:
        RuntimeError: it did not start; carries its log.
    """
    port = process.free_port()
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, (Path(folder) / "log").open("wb") as log:
        environment = {**contender.environment, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}
        if contender.is_ours:
            environment |= {"HOST": "127.0.0.1", "PORT": str(port), "B1_STATE_DIR": str(Path(folder) / "state")}
        if contender.needs_postgres:
            environment["DATABASE_URL"] = database_url
        child = process.start(
            contender.command(port),
            death_signal=signal.SIGTERM,
            own_group=True,
            cwd=HERE,
            env=clean_environment(environment),
            output=log,
        )
        os.sched_setaffinity(child.pid, {cores.server})
        server = Server(contender, cores, child.pid, port, Path(folder) / "log")
        try:
            is_up = process.wait_until(
                lambda: child.poll() is not None or process.can_connect("127.0.0.1", port), limit_s=START_LIMIT_S
            )
            if not is_up or child.poll() is not None:
                raise RuntimeError(f"{contender.name} did not start:\n{server.log[-3000:]}")
            yield server
        finally:
            process.stop(child, signal.SIGTERM, patience_s=STOP_LIMIT_S)
            _end_group(child.pid)


def _end_group(group: int) -> None:
    """End what outlived its master."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
        time.sleep(0.1)
