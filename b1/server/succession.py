"""One worker's part in a replacement: as the successor of another one, and as the predecessor of the next.

    handover   load the application beside the predecessor; when ready, have it end; take its state, then its connections
    serial     have the predecessor end; when it is gone, load the application; take what it left

Handover is chosen when both fit below the emergency mark. Either way the listening socket is the master's and stays open,
so new clients wait in it for as long as nobody accepts: milliseconds in a handover, a start in a serial replacement.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from b1.plan import WATERMARKS
from b1.server.passage import END, NEWS, REST, SOCKETS, STATE, Parcel, Passage, Predecessor, Will, read_state
from b1.units import MIB

log = logging.getLogger("b1.server")

# A worker that starts needs a little more than one that has just started, and the old one still works meanwhile.
NEED_SHARE = 1.3
NEED_MORE_BYTES = 16 * MIB
UNKNOWN_BASELINE_BYTES = 100 * MIB

# The predecessor hears of it within a tick of its main loop, and its state is on its way before it does anything else.
STATE_MAY_TAKE_S = 3.0
LOOK_EVERY_S = 0.02
WATCH_EVERY_S = 0.2


def fits(used_bytes: int, limit_bytes: int, baseline_bytes: int) -> bool:
    """Say whether a second worker fits beside the first one, below the level at which everything is given up."""
    need_bytes = (baseline_bytes or UNKNOWN_BASELINE_BYTES) * NEED_SHARE + NEED_MORE_BYTES
    return used_bytes + need_bytes <= limit_bytes * WATERMARKS["emergency"] / 100


@dataclass(frozen=True, slots=True)
class Replaced:
    """A replacement that is done.

    Attributes:
        pause_s: how long nobody accepted; None where the predecessor could not say.
    """

    predecessor: int
    mode: str
    reason: str
    pause_s: float | None


class Succession:
    """What a worker knows of those before and after it.

    Args:
        predecessor: whom it succeeds; None for the first worker, and after one that was killed.
        graceful_s: how long a predecessor may take to end.
    """

    def __init__(self, passage: Passage, will: Will, predecessor: Predecessor | None, *, graceful_s: float) -> None:
        self._passage = passage
        self._will = will
        self._predecessor = predecessor
        self._graceful_s = graceful_s
        self._prepare: Callable[[], None] = lambda: None
        self._adopt: Callable[[socket.socket], None] | None = None
        self._waiting: list[int] = []
        self._state: asyncio.Future[bytes | None] | None = None
        self._rest: asyncio.Future[bytes | None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._hear: Callable[[bytes], None] = lambda data: None
        self._end: Callable[[bool], None] = lambda urgent: None
        self._adopted = 0
        self._gone_by_s = float("inf")  # it serves until it is asked to end
        self._master = os.getppid()

    def __repr__(self) -> str:
        heir_of = self._predecessor.pid if self._predecessor is not None else None
        return f"<Succession heir_of={heir_of} will={self._will!r} adopted={self._adopted}>"

    # As a successor

    @property
    def is_successor(self) -> bool:
        """Whether there was a predecessor, which may still be there."""
        return self._predecessor is not None

    @property
    def is_predecessor_gone(self) -> bool:
        """Whether the predecessor, if there was one, has ended."""
        return self._predecessor is None or self._predecessor.is_gone

    def make_way(self, wish: str, read: Callable[[], tuple[int, int]], notify: Callable[[], None]) -> None:
        """Choose how; in the serial case wait here until the predecessor is gone. Blocks; before the application is loaded.

        Args:
            wish: ``handover``, ``serial``, or ``auto`` for what memory allows.
            read: returns used and effective limit, in bytes.
            notify: tells the master that this process lives.
        """
        if self._predecessor is None or self._predecessor.is_gone:
            return
        if wish == "auto":
            used_bytes, limit_bytes = read()
            does_fit = fits(used_bytes, limit_bytes, self._predecessor.will.baseline_bytes)
            wish = "handover" if does_fit else "serial"
        self._predecessor.will.mode = wish
        if wish == "handover":
            return
        self._ask_for_end()
        end_s = time.monotonic() + self._graceful_s + 5.0
        while not self._predecessor.is_gone and time.monotonic() < end_s:
            notify()
            time.sleep(LOOK_EVERY_S)

    def before_inheriting(self, prepare: Callable[[], None]) -> None:
        """Do this when the application is ready and nobody waits yet: what would otherwise be a pause."""
        self._prepare = prepare

    async def inherit(self) -> bytes | None:
        """Have the predecessor end, and return the state that it leaves; None when there is none, or it does not come."""
        self._prepare()
        if self._predecessor is None:
            return None
        if self._watch is None:
            self._begin_to_watch()
        assert self._state is not None
        self._gone_by_s = time.monotonic() + self._graceful_s + 5.0
        if not self._predecessor.is_gone:
            self._ask_for_end()
        try:
            async with asyncio.timeout(self._state_may_take_s()):
                return await asyncio.shield(self._state)
        except TimeoutError:
            log.warning("the predecessor left no state in time", extra={"predecessor": self._predecessor.pid})
            return None

    def _state_may_take_s(self) -> float:
        """Of a predecessor that closed long ago the state is here, or a successor before us had it."""
        assert self._predecessor is not None
        closed_s = self._predecessor.will.closed_s
        since_s = time.monotonic() - closed_s if closed_s else 0.0
        return max(LOOK_EVERY_S, STATE_MAY_TAKE_S - since_s)

    async def inherit_rest(self) -> bytes | None:
        """Wait for what the predecessor still did while it drained; None when there is none."""
        return await asyncio.shield(self._rest) if self._rest is not None else None

    async def predecessor_gone(self) -> None:
        """Wait until the predecessor's process has ended."""
        if self._predecessor is None:
            return
        if self._watch is None:
            self._begin_to_watch()
        assert self._watch is not None
        await asyncio.shield(self._watch)

    def listen(self, hear: Callable[[bytes], None]) -> None:
        """Give what the predecessor tells while it drains to `hear`, when it comes; call it before `inherit`."""
        self._hear = hear

    def accept(self, adopt: Callable[[socket.socket], None]) -> Replaced | None:
        """From now on take connections: those that have come already, and each that comes. Say what was replaced."""
        if self._predecessor is not None and self._watch is None:
            self._begin_to_watch()
        self._adopt = adopt
        self._receive()
        for parcel in self._passage.take_kept():  # it is in use here now
            parcel.discard()
        waiting, self._waiting = self._waiting, []
        for descriptor in waiting:
            self._take(descriptor)
        if self._predecessor is None:
            return None
        will = self._predecessor.will
        pause_s = max(0.0, time.monotonic() - will.closed_s) if will.closed_s else None
        return Replaced(self._predecessor.pid, will.mode, will.reason, pause_s)

    def _ask_for_end(self) -> None:
        self._will.asks_for_end = True
        self._tell_master(signal.SIGTTOU)

    def _tell_master(self, number: signal.Signals) -> None:
        if os.getppid() != self._master:
            log.warning("the master has gone: nobody can replace this worker", extra={"signal": number.name})
            return  # whoever adopted us is no gunicorn, and may be the machine's first process
        os.kill(self._master, number)

    def _begin_to_watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._state, self._rest = loop.create_future(), loop.create_future()
        loop.add_reader(self._passage.fileno(), self._receive)
        self._watch = loop.create_task(self._watch_predecessor(), name="b1-succession")
        for parcel in self._passage.take_kept():  # by a successor before us, that died before it served
            self._open(parcel)

    def _receive(self) -> None:
        while (parcel := self._passage.receive()) is not None:
            self._open(parcel)

    def _open(self, parcel: Parcel) -> None:
        if self._adopt is None:
            self._passage.keep(parcel)
        if parcel.kind == SOCKETS:  # whoever left them: a client waits at the other end
            for descriptor in parcel.descriptors:
                self._take(descriptor)
        elif self._predecessor is None or parcel.sender != self._predecessor.pid:
            parcel.discard()  # left to a successor that never started
        elif parcel.kind in (STATE, REST):
            data = read_state(parcel.descriptors[0]) if parcel.descriptors else None
            _resolve(self._state if parcel.kind == STATE else self._rest, data)
        elif parcel.kind == NEWS:
            self._hear(parcel.data)
        elif parcel.kind == END:
            _resolve(self._state, None)
            _resolve(self._rest, None)

    def _take(self, descriptor: int) -> None:
        if self._adopt is None:
            self._waiting.append(descriptor)
            return
        self._adopted += 1
        self._adopt(socket.socket(fileno=descriptor))

    async def _watch_predecessor(self) -> None:
        """Until it is gone, with whatever it sent at last."""
        assert self._predecessor is not None
        while not self._predecessor.is_gone and time.monotonic() < self._gone_by_s:  # noqa: ASYNC110 - another process
            await asyncio.sleep(WATCH_EVERY_S if self._adopt is not None else LOOK_EVERY_S)
        self._receive()
        asyncio.get_running_loop().remove_reader(self._passage.fileno())
        _resolve(self._state, None)
        _resolve(self._rest, None)

    # As a predecessor

    @property
    def has_heir(self) -> bool:
        """Whether a successor is on its way, or is sure to come."""
        return self._will.has_heir

    @property
    def is_serial(self) -> bool:
        """Whether the successor waits for this process to be gone."""
        return self._will.mode == "serial"

    def end_through(self, end: Callable[[bool], None]) -> None:
        """Hear how the server ends this worker: `end(urgent)`."""
        self._end = end

    def ask(self, reason: str, *, urgent: bool = False) -> None:
        """Ask for a successor; in an emergency end at once, so that the master makes one when the memory is free.

        Args:
            reason: one of `b1.server.passage.REASONS`.
        """
        self._will.reason = reason
        if urgent:
            self._will.has_heir = True
            self._will.mode = "serial"
            self._end(True)
        else:
            self._tell_master(signal.SIGTTIN)

    def note_ready(self, baseline_bytes: int) -> None:
        """Note what this worker holds now that it serves: about what another one will need."""
        self._will.baseline_bytes = baseline_bytes

    def note_closed(self) -> None:
        """Note that this worker accepts nobody any more."""
        self._will.closed_s = time.monotonic()

    def leave(self, data: bytes, *, last: bool) -> bool:
        """Leave state to the successor, nothing included; say whether that worked."""
        return self._passage.send_state(data, last=last)

    def tell(self, data: bytes) -> bool:
        """Tell the successor at once; say whether that worked. What it misses has to be in the state too.

        One that waits for our end has nothing yet that this could make stale, and reads nothing until then.
        """
        return self.has_heir and not self.is_serial and self._passage.send_news(data)

    def leave_connections(self, descriptors: Sequence[int]) -> int:
        """Leave open connections; return how many, from the first on, are the successor's now."""
        return self._passage.send_sockets(descriptors)

    def leave_end(self) -> None:
        """Say that nothing more comes."""
        self._passage.send_end()


def _resolve(future: asyncio.Future[bytes | None] | None, data: bytes | None) -> None:
    if future is not None and not future.done():
        future.set_result(data)
