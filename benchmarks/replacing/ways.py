"""The ways in which a worker is replaced, and when a replacement is over: somebody new answers and the old one is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from replacing.servers import Server, is_gone

ANNOUNCED_S = 0.4
REPLACED_LIMIT_S = 40.0
LEAK_EVERY_S = 0.05
LOOK_EVERY_S = 0.03


class Announce(Protocol):
    """Tells the load when a signal will be sent."""

    def mark(self, at_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Way:
    """How one replacement is asked for; None when the server replaces by itself."""

    name: str
    ask: Callable[[Server, int, Announce], None] | None


def _signal(server: Server, worker: int, announce: Announce) -> None:
    at_s = time.monotonic() + ANNOUNCED_S
    announce.mark(at_s)
    time.sleep(max(0.0, at_s - time.monotonic()))
    os.kill(server.pid, signal.SIGHUP)


def _kill(server: Server, worker: int, announce: Announce) -> None:
    at_s = time.monotonic() + ANNOUNCED_S
    announce.mark(at_s)
    time.sleep(max(0.0, at_s - time.monotonic()))
    os.kill(worker, signal.SIGKILL)


def _leak(server: Server, worker: int, announce: Announce) -> None:
    """Attack until somebody else answers."""
    announce.mark(time.monotonic())
    end_s = time.monotonic() + REPLACED_LIMIT_S
    while time.monotonic() < end_s:
        server.get("/leak")
        if server.worker() not in (worker, None):
            return
        time.sleep(LEAK_EVERY_S)


SIGHUP = Way("SIGHUP", _signal)
KILL = Way("kill -9", _kill)
LEAK = Way("a leak", _leak)
OF_ITSELF = Way("max_requests", None)
NONE = Way("none", None)


def replace(server: Server, way: Way, announce: Announce) -> float | None:
    """Ask for a replacement and wait until it is over; return how long it took, None when it did not happen."""
    before = _worker(server)
    if way.ask is None or before is None:
        return None
    begun_s = time.monotonic()
    way.ask(server, before, announce)
    end_s = begun_s + REPLACED_LIMIT_S
    while time.monotonic() < end_s:
        if is_gone(before) and server.worker() not in (before, None):
            return time.monotonic() - begun_s
        time.sleep(LOOK_EVERY_S)
    return None


def _worker(server: Server) -> int | None:
    end_s = time.monotonic() + REPLACED_LIMIT_S
    while (pid := server.worker()) is None and time.monotonic() < end_s:
        time.sleep(LOOK_EVERY_S)
    return pid
