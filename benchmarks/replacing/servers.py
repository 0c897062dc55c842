"""The contenders' commands, and a running one: who works there, who is gone, how much memory all of it holds.

The whole tree of a server is on one core, as on a B1: a successor that loads takes its time from the one that serves.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, clean_environment

from b1.embedded import process
from replacing.application import WORKER

START_LIMIT_S = 40.0
STOP_LIMIT_S = 30.0
MAX_REQUESTS, JITTER = 3000, 300
Command = Callable[[int], list[str]]

OUR_ENVIRONMENT = {
    "AUTH_JWT_SECRET": "a secret of the benchmark, good for nothing else",
    "B1_LIMIT_SCALE": "1000000",  # every limit is decided and none refuses
    "LOG_LEVEL": "warning",
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to be measured.

    Attributes:
        command: makes the command from a port.
    """

    name: str
    command: Command
    environment: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False


def ours(name: str, **environment: str) -> Contender:
    """Return b1 under its production command."""
    return Contender(
        name,
        lambda _: [sys.executable, "-m", "b1", "run", "replacing.ours:app"],
        {**OUR_ENVIRONMENT, **environment},
        is_ours=True,
    )


def gunicorn(name: str, worker: str, *more: str) -> Contender:
    """Return gunicorn with one worker of a class, with the numbers that b1's profile has."""
    words = ["-m", "gunicorn", "--workers", "1", "--worker-class", worker, "--keep-alive", "5", "--timeout", "60"]
    words += ["--graceful-timeout", "25", "--worker-tmp-dir", "/dev/shm", "--no-control-socket", *more]
    return Contender(name, lambda port: [*_peers(), *words, "--bind", f"127.0.0.1:{port}", "replacing.bare:app"])


def granian(name: str) -> Contender:
    """Return granian with one worker."""
    words = ["-m", "granian", "--interface", "asgi", "--workers", "1", "--host", "127.0.0.1", "--no-ws"]
    return Contender(name, lambda port: [*_peers(), *words, "--port", str(port), "replacing.bare:app"])


def recycling() -> Sequence[str]:
    """Return gunicorn's words for a worker that ends after so many requests."""
    return ("--max-requests", str(MAX_REQUESTS), "--max-requests-jitter", str(JITTER))


def _peers() -> list[str]:
    return [str(peers_python())]


class Server:
    """A running contender."""

    def __init__(self, pid: int, port: int, log: Path, state: Path) -> None:
        self.pid = pid
        self.port = port
        self.state = state
        self._log = log

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-6000:]

    def worker(self) -> int | None:
        """Return the pid that answers on a new connection, None when nobody does."""
        answer = self.get("/fast")
        return int(answer.getheader(WORKER, "0")) if answer is not None and answer.status == 200 else None

    def get(self, path: str) -> http.client.HTTPResponse | None:
        """Ask on a connection of its own; None when there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return answer

    def children(self) -> list[int]:
        """Return the pids of the master's children."""
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def pss_bytes(self) -> int:
        """Return what the whole tree holds, shared pages counted once."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    total += _pss_bytes(one)
        return total


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, its exit code read or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextmanager
def running(contender: Contender, stores: Mapping[str, str]) -> Iterator[Server]:
    """Serve it on the server's core; `stores` names Postgres and Redis for b1."""
    port = process.free_port()
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, (Path(folder) / "log").open("wb") as log:
        state = Path(folder) / "state"
        environment = dict(contender.environment)
        if contender.is_ours:
            environment |= {**stores, "HOST": "127.0.0.1", "PORT": str(port), "B1_STATE_DIR": str(state)}
        child = process.start(
            contender.command(port),
            death_signal=signal.SIGTERM,
            own_group=True,
            cwd=HERE,
            env=clean_environment({**environment, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}),
            output=log,
        )
        os.sched_setaffinity(child.pid, {Cores.of_this_process().server})
        server = Server(child.pid, port, Path(folder) / "log", state)
        try:
            is_up = process.wait_until(
                lambda: child.poll() is not None or server.worker() is not None, limit_s=START_LIMIT_S, every_s=0.1
            )
            if not is_up or child.poll() is not None:
                raise RuntimeError(f"{contender.name} did not start:\n{server.log}")
            yield server
        finally:
            process.stop(child, signal.SIGTERM, patience_s=STOP_LIMIT_S)
            _end_group(child.pid)


def _end_group(group: int) -> None:
    """End what outlived its master."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
        time.sleep(0.1)
