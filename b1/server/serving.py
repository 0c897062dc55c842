"""The start and the stop of the ASGI server inside a worker.

uvicorn closes idle connections the moment it is told to stop, which loses the request that is on its way on one of
them, and raises the signal again afterwards, which kills the process before its exit code and hooks. Here every
answer first says ``Connection: close`` for a moment, then idle connections are closed, then requests are waited for,
and the application's shutdown always runs, exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import FrameType

from uvicorn.config import Config
from uvicorn.server import Server

from b1.asgi.lifespan import REPLACE_STATE, STOPPING_STATE
from b1.server.ending import PhaseCell

log = logging.getLogger("b1.server")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
LOOK_EVERY_S = 0.02
# The same Ctrl-C reaches a worker from the terminal and through its supervisor; only a later one is a second wish.
SECOND_WISH_AFTER_S = 1.0
CANCELLED_MAY_TAKE_S = 1.0


@dataclass(frozen=True, slots=True)
class StopTimes:
    """How long each part of a stop may take, in seconds.

    Attributes:
        linger_s: idle connections stay open this long, so that a request already on its way is still answered.
        requests_s: from the signal until requests in work are cancelled.
    """

    linger_s: float
    requests_s: float

    @classmethod
    def within(cls, limit_s: float) -> StopTimes:
        """Divide `limit_s`, after which the master kills: what the requests do not get is the application's own."""
        return cls(linger_s=min(1.0, limit_s / 5), requests_s=limit_s - min(5.0, limit_s * 0.3))


class B1Server(Server):
    """uvicorn's server with our start and stop.

    Args:
        cell: tells the master what this worker is doing.
        gc_threshold: net allocations between two young collections.
    """

    def __init__(self, config: Config, times: StopTimes, cell: PhaseCell, *, gc_threshold: int) -> None:
        super().__init__(config)
        self._times = times
        self._cell = cell
        self._gc_threshold = gc_threshold
        self._asked_by: int | None = None
        self._asked_s = 0.0
        self._is_hurried = False
        self._stopping: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<B1Server {self._cell.phase} connections={len(self.server_state.connections)}>"

    # Start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept; then put the heap in order before the first request."""
        self._stopping = asyncio.Event()
        self.lifespan.state[STOPPING_STATE] = self._stopping
        self.lifespan.state[REPLACE_STATE] = self.replace
        await super().startup(sockets=sockets)
        settle_heap(self._gc_threshold)
        self._cell.phase = "serving"

    # Signals

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the stop signals; afterwards they are ignored, because the end is near and needs no second reason."""
        for number in STOP_SIGNALS:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; when asked again by somebody impatient, cancel what still runs. Nothing skips the shutdown."""
        if self._asked_by is None:
            self._asked_by, self._asked_s = sig, time.monotonic()
            self.should_exit = True
        elif self._is_impatient(sig):
            self._is_hurried = True

    def replace(self) -> None:
        """End this worker in order; the master starts another one."""
        self.handle_exit(signal.SIGTERM, None)

    def _is_impatient(self, sig: int) -> bool:
        """gunicorn turns SIGINT and SIGQUIT after a SIGTERM into "two seconds more"; a person presses Ctrl-C again."""
        if self._asked_by == signal.SIGTERM:
            return sig != signal.SIGTERM
        return sig == signal.SIGINT and time.monotonic() - self._asked_s > SECOND_WISH_AFTER_S

    # Stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, say so, finish what was begun, run the application's shutdown."""
        begun_s = time.monotonic()
        self._cell.phase = "stopping"
        if self._stopping is not None:
            self._stopping.set()
        if self.config.callback_notify is not None:
            await self.config.callback_notify()  # nobody else tells the master that we live from here on
        self._stop_accepting(sockets)
        self._announce()
        state = self.server_state
        await self._until(lambda: not state.connections, begun_s + self._times.linger_s)
        for connection in list(state.connections):
            connection.shutdown()
        await self._until(lambda: not state.connections and not state.tasks, begun_s + self._times.requests_s)
        await self._cancel_rest()
        await self.lifespan.shutdown()
        self._cell.phase = "stopped"
        log.info("stopped", extra={"took_s": round(time.monotonic() - begun_s, 3)})

    def _stop_accepting(self, sockets: list[socket.socket] | None) -> None:
        """Close our copies of the listening sockets; the master's stay open and new connections wait in them."""
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()

    def _announce(self) -> None:
        """Have every answer from now on end its connection: new requests by header, those in work by their cycle."""
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None:
                cycle.keep_alive = False

    async def _until(self, is_over: Callable[[], bool], end_s: float) -> None:
        # uvicorn keeps plain sets; nothing tells when they are empty
        while not is_over() and not self._is_hurried and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)

    async def _cancel_rest(self) -> None:
        """Cancel requests that did not end in time, and wait for their clean-up before services are closed."""
        rest = list(self.server_state.tasks)
        if not rest:
            return
        log.warning("requests are cancelled because the time to stop is over", extra={"requests": len(rest)})
        for task in rest:
            task.cancel("the server stops")
        await asyncio.wait(rest, timeout=CANCELLED_MAY_TAKE_S)


def settle_heap(gc_threshold: int) -> None:
    """Collect once, then take everything that start-up made out of the collector's sight.

    A full collection walks every tracked object: about 100 ms per million, which a request would wait for. Modules and
    routes never become garbage, so after `gc.freeze` it walks only what requests made. The threshold is the plan's:
    requests free their objects by reference count, and young collections mostly find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(gc_threshold, 10, 10)
