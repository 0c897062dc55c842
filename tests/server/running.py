"""The real server, started as a user would, in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
APP = "tests.server.tiny:app"
GUNICORN = ("-m", "gunicorn", "-c", "python:b1.server.gunicorn", APP)
PATIENCE_S = 30.0


def wait_for(condition: Callable[[], object], *, limit_s: float = PATIENCE_S) -> None:
    """Poll until it holds; fails after `limit_s`."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)


class Running:
    """One server. Use as a context manager: nothing of it is left afterwards."""

    def __init__(self, folder: Path, *, command: Sequence[str] = GUNICORN, **variables: str) -> None:
        self.port = free_port()
        self.state_dir = folder / "state"
        self._events = folder / "events"
        self._log = folder / "log"
        self._events.touch()
        environment = {
            **os.environ,
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            "TINY_EVENTS": str(self._events),
            "ENABLE_RATE_LIMITING": "0",
            "B1_STATE_DIR": str(self.state_dir),
            **variables,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        """What the server wrote to its two outputs."""
        return self._log.read_text(errors="replace")

    def events(self, kind: str) -> int:
        """Count the lifespan's notes."""
        return sum(line.startswith(kind) for line in self._events.read_text().splitlines())

    def endings(self) -> list[dict[str, object]]:
        """Return what the master noted about ended workers."""
        with contextlib.suppress(FileNotFoundError):
            return list(json.loads((self.state_dir / "worker-endings.json").read_text()))
        return []

    def workers(self) -> list[int]:
        """Return the pids of the master's children."""
        return [
            int(word) for word in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def wait_ready(self) -> Self:
        """Wait until it answers; fails when it ended."""
        wait_for(lambda: self.process.poll() is not None or self.status("/live") == 200)
        assert self.process.poll() is None, self.log
        return self

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def status(self, path: str) -> int | None:
        """Return the status of a GET on a connection of its own; None when nobody answers."""
        try:
            answer = self.get(path)
        except OSError:
            return None
        return int(answer.split(b" ", 2)[1]) if answer else None

    def get(self, path: str) -> bytes:
        """Return the whole answer to a GET on a connection of its own."""
        with self.connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return read_all(connection)

    def send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        (os.killpg if to_group else os.kill)(self.process.pid, number)


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side ends or resets the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received
