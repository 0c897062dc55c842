"""The application's server as a child of the supervisor: started, asked whether it is ready, replaced, stopped.

It runs in a process group of its own: Ctrl-C in a terminal goes to the whole foreground group, and a worker that gets it
directly, and then once more from its master, takes the second one as an order to drop its requests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence

from b1.embedded import process
from b1.embedded.interrupts import Interrupts

LOOK_EVERY_S = 0.05
# Below the 20 s after which impatient tools kill the whole group.
PATIENCE_S = 10.0
SHORT_PATIENCE_S = 3.0


class Server:
    """One child that serves HTTP at `host` and `port`."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], host: str, port: int) -> None:
        self._command = list(command)
        self._env = env
        self._address = (_reachable(host), port)
        self._child: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Server(pid={self._child and self._child.pid}, exit_code={self.exit_code})"

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs or before it started."""
        return self._child.poll() if self._child is not None else None

    def start(self) -> None:
        """Start it; forgets an earlier child that has ended."""
        self._child = process.start(self._command, death_signal=signal.SIGTERM, own_group=True, env=self._env)

    def wait_ready(self, interrupts: Interrupts, *, limit_s: float) -> bool:
        """Wait until ``/ready`` says 200; False when the child ended, a stop was asked for, or the time is over."""
        end = time.monotonic() + limit_s
        asked = interrupts.count
        while self.exit_code is None and time.monotonic() < end:
            if self.status_of("/ready") == 200:
                return True
            if interrupts.wait(LOOK_EVERY_S) > asked:
                return False
        return False

    def status_of(self, path: str) -> int | None:
        """Return the status of a GET, None without an answer within two seconds."""
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        try:
            with socket.create_connection(self._address, timeout=2) as connection:
                connection.sendall(request.encode())
                words = connection.recv(64).split(b" ", 2)
        except OSError:
            return None
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else None

    def reload(self) -> None:
        """Have the worker replaced by one with the new code, without a lost request."""
        if self._child is not None:
            self._child.send_signal(signal.SIGHUP)

    def stop(self, interrupts: Interrupts) -> None:
        """Stop in an orderly way; each further Ctrl-C, and running out of patience, makes the order harder."""
        if self._child is None:
            return
        for number, patience_s in ((signal.SIGTERM, PATIENCE_S), (signal.SIGQUIT, SHORT_PATIENCE_S)):
            if self._child.poll() is None:
                self._child.send_signal(number)
                self._wait(interrupts, patience_s)
        with contextlib.suppress(ProcessLookupError):  # nobody is left, which is the usual case
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def _wait(self, interrupts: Interrupts, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        asked = interrupts.count
        while self.exit_code is None and time.monotonic() < end and interrupts.wait(LOOK_EVERY_S) == asked:
            pass


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
