"""The start and the stop of the ASGI server inside a worker.

uvicorn closes idle connections the moment it is told to stop, which loses the request that is on its way on one of
them, and raises the signal again afterwards, which kills the process before its exit code and hooks. Here a worker with a
successor gives its connections to that one between two requests, so no client sees anything. One without says
``Connection: close`` in every answer for a moment, and then closes. Either way requests are waited for, and the
application's shutdown always runs, exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from uvicorn.config import Config
from uvicorn.server import Server

from b1.asgi.lifespan import STOPPING_STATE, SUCCESSION_STATE
from b1.governor.memory import process_bytes
from b1.server.ending import PhaseCell
from b1.server.succession import Replaced, Succession

log = logging.getLogger("b1.server")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
LOOK_EVERY_S = 0.02
GIVE_EVERY_S = 0.005
# The same Ctrl-C reaches a worker from the terminal and through its supervisor; only a later one is a second wish.
SECOND_WISH_AFTER_S = 1.0
CANCELLED_MAY_TAKE_S = 1.0
# While a successor waits for this process to be gone, nobody answers anybody: an answer without an end is ended.
STREAMS_MAY_TAKE_S = 3.0
URGENT_S = 2.0
# Between two wishes for a successor because of age; doubled each time.
ASK_PAUSE_FIRST_S = 2.0
ASK_PAUSE_MOST_S = 300.0


@runtime_checkable
class Givable(Protocol):
    """A connection that can go on in another process."""

    def give_through(self, give: Callable[[Any], None]) -> None: ...

    def descriptor_between(self) -> int | None: ...

    def forget(self) -> None: ...


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
        succession: who was before and who comes after.
        gc_threshold: net allocations between two young collections.
        replace_after: requests after which a successor is asked for; None: never.
        said: what else the application's services hear, by its name in the lifespan's state.
        on_replaced: told of the predecessor's end, when this worker accepts.
    """

    def __init__(
        self,
        config: Config,
        times: StopTimes,
        cell: PhaseCell,
        succession: Succession,
        *,
        gc_threshold: int,
        replace_after: int | None = None,
        on_replaced: Callable[[Replaced], None] = lambda _: None,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config)
        self._times = times
        self._cell = cell
        self._succession = succession
        self._gc_threshold = gc_threshold
        self._replace_after = replace_after
        self._ask_at_s, self._ask_pause_s = 0.0, ASK_PAUSE_FIRST_S
        self._on_replaced = on_replaced
        self._said = dict(said or {})
        self._adopting: set[asyncio.Task[None]] = set()
        self._asked_by: int | None = None
        self._asked_s = 0.0
        self._is_hurried = False
        self._is_urgent = False
        self._stopping: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<B1Server {self._cell.phase} connections={len(self.server_state.connections)}>"

    # Start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, put the heap in order, take over from a predecessor, and accept."""
        succession = self._succession
        self._stopping = asyncio.Event()
        self.lifespan.state.update(self._said)
        self.lifespan.state[STOPPING_STATE] = self._stopping
        self.lifespan.state[SUCCESSION_STATE] = succession
        succession.end_through(self.end)
        succession.before_inheriting(lambda: settle_heap(self._gc_threshold))
        await super().startup(sockets=sockets)
        replaced = succession.accept(self._adopt)
        if replaced is not None:
            self._on_replaced(replaced)
        succession.note_ready(process_bytes())
        self._cell.phase = "serving"

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: as uvicorn does it; and ask for a successor at the age that somebody wished."""
        if self._replace_after is not None and self.server_state.total_requests >= self._replace_after:
            now_s = time.monotonic()
            if now_s >= self._ask_at_s:  # again, because it is not heard while a predecessor drains, or did not start
                self._ask_pause_s = min(ASK_PAUSE_MOST_S, self._ask_pause_s * 2)
                self._ask_at_s = now_s + self._ask_pause_s
                self._succession.ask("max_requests")
        return await super().on_tick(counter)

    def _adopt(self, connection: socket.socket) -> None:
        """Go on with a connection that the predecessor had between two requests."""
        task = asyncio.get_running_loop().create_task(self._connect(connection), name="b1-adopt")
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._new_protocol, connection)
        except OSError as error:  # its client has gone meanwhile
            log.debug("a connection could not be taken over", extra={"error": str(error)})
            connection.close()

    def _new_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

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

    def end(self, urgent: bool) -> None:
        """End this worker in order, an urgent one within moments; the master starts another one."""
        self._is_urgent = self._is_urgent or urgent
        self.handle_exit(signal.SIGTERM, None)

    def _is_impatient(self, sig: int) -> bool:
        """gunicorn turns SIGINT and SIGQUIT after a SIGTERM into "two seconds more"; a person presses Ctrl-C again."""
        if self._asked_by == signal.SIGTERM:
            return sig != signal.SIGTERM
        return sig == signal.SIGINT and time.monotonic() - self._asked_s > SECOND_WISH_AFTER_S

    # Stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, hand over or say so, finish what was begun, run the application's shutdown."""
        begun_s = time.monotonic()
        self._cell.phase = "stopping"
        self._stop_accepting(sockets)
        self._succession.note_closed()
        if self._stopping is not None:
            self._stopping.set()
        if self.config.callback_notify is not None:
            await self.config.callback_notify()  # nobody else tells the master that we live from here on
        end_s = begun_s + (min(URGENT_S, self._times.requests_s) if self._is_urgent else self._times.requests_s)
        if self._succession.has_heir:
            await self._hand_over(begun_s, end_s)
        else:
            await self._take_leave(begun_s, end_s)
        await self._cancel_rest()
        await self.lifespan.shutdown()
        self._succession.leave_end()
        self._cell.phase = "stopped"
        log.info("stopped", extra={"took_s": round(time.monotonic() - begun_s, 3)})

    async def _hand_over(self, begun_s: float, end_s: float) -> None:
        """Give each connection away when it is between two requests; what finds no such moment ends with its answer."""
        state = self.server_state
        given = 0
        is_announced = False
        for connection in list(state.connections):
            if isinstance(connection, Givable):
                connection.give_through(self._give_one)
        while not self._is_hurried and (now_s := time.monotonic()) < end_s:
            given += self._give_connections()
            if not state.connections and not state.tasks:
                break
            if not is_announced and now_s - begun_s > self._times.linger_s:
                is_announced = True
                self._announce()
            if self._succession.is_serial and now_s - begun_s > STREAMS_MAY_TAKE_S:
                self._end_streams()
            await asyncio.sleep(GIVE_EVERY_S if not is_announced else LOOK_EVERY_S)
        log.info("connections handed over", extra={"connections": given, "left": len(state.connections)})

    def _give_connections(self) -> int:
        """Send what is between two requests to the successor; return how many. What cannot be sent stays here."""
        idle = [
            (connection, descriptor)
            for connection in list(self.server_state.connections)
            if isinstance(connection, Givable) and (descriptor := connection.descriptor_between()) is not None
        ]
        given = self._succession.leave_connections([descriptor for _, descriptor in idle]) if idle else 0
        for number, (connection, descriptor) in enumerate(idle):
            os.close(descriptor)
            if number < given:
                connection.forget()
        return given

    def _give_one(self, connection: Givable) -> None:
        descriptor = connection.descriptor_between()
        if descriptor is None:
            return
        if self._succession.leave_connections([descriptor]):
            connection.forget()
        os.close(descriptor)

    def _end_streams(self) -> None:
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is None:
                connection.shutdown()  # a WebSocket is told that the service restarts
            elif cycle.chunked_encoding and not cycle.response_complete:
                connection.transport.close()

    async def _take_leave(self, begun_s: float, end_s: float) -> None:
        """Nobody comes after us, or not soon: say so in every answer, then close what is idle, then wait for the rest."""
        state = self.server_state
        self._announce()
        await self._until(lambda: not state.connections, begun_s + self._times.linger_s)
        for connection in list(state.connections):
            connection.shutdown()
        await self._until(lambda: not state.connections and not state.tasks, end_s)

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
            if cycle is not None and not cycle.response_started:  # what a head has promised is kept
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
