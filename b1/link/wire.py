"""One open connection to Redis, used by many callers at once: commands go out in order, replies come back in order.

A caller that gives up leaves its place in the queue: its reply is read and dropped, and the stream stays in step. This
is why no caller ever touches the socket. Calls of one turn of the loop leave in one write (`b1.link.departing`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

from hiredis import PushNotification, pack_command

from b1.clock import DEADLINE, Clock
from b1.errors import StoreUnavailable
from b1.link.departing import Departures
from b1.link.owner import WireEvents, WireLimits
from b1.link.pending import Pending, Receiver, Reply, Turn
from b1.link.replies import FAREWELLS, NOTHING_YET, REFUSED, Argument, Oversized, ReplyError, new_reader
from b1.link.watch import Watch

_log = logging.getLogger("b1.link")
_WRITE_BUFFER_BYTES = 256 * 1024


class Wire(asyncio.Protocol):
    """The protocol of one connection that has shaken hands and has nothing outstanding.

    All state is touched by the event loop between two awaits only.

    Attributes:
        is_stalled: calls fail at once, because an overdue one found the server silent; its next byte ends that.
        ended: done with the reason when the connection is over.
        client_id: the server's name for the connection, 0 while unknown.
        writes, calls: since the beginning.
    """

    def __init__(self, limits: WireLimits, clock: Clock, events: WireEvents) -> None:
        self.limits = limits  # read only; `set_limits` changes them
        self.is_stalled = False
        self.client_id = 0
        self.latency_s: float | None = None
        self.calls = self.writes = self.timeouts = 0
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exception] = self._loop.create_future()
        self._clock = clock
        self._events = events
        self._pending = Pending()
        self._replies = self._pending.replies
        self._turn: Turn | None = None
        self._departures = Departures(self._pending, self._write, clock)
        self._owed = 0
        self._heard_s = clock.monotonic()
        self._stalled_s = 0.0
        self._watch = Watch(clock, self._next_due_s, self._expire)
        self._leaving: ReplyError | None = None
        self._transport: asyncio.Transport | None = None
        self._kept_alive: object = None
        reader = new_reader()
        self._feed, self._gets = reader.feed, reader.gets

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else "stalled" if self.is_stalled else "up"
        return f"Wire({state}, id={self.client_id}, pending={self.pending}, pending_bytes={self.pending_bytes})"

    @property
    def pending(self) -> int:
        """Commands without a reply yet, including those whose callers gave up."""
        return len(self._replies)

    @property
    def pending_bytes(self) -> int:
        return self._pending.held_bytes

    @property
    def is_usable(self) -> bool:
        """True while a call would be sent."""
        return not (self.is_stalled or self._leaving or self.ended.done())

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._transport

    def take_over(self, transport: asyncio.Transport, keep_alive: object = None) -> None:
        """Become the protocol of a connected transport; `keep_alive` is whatever would close it when collected."""
        self._kept_alive = keep_alive
        transport.set_protocol(self)
        self.connection_made(transport)

    def set_limits(self, limits: WireLimits) -> None:
        """Change the bounds, for the calls to come."""
        self.limits = limits
        self._watch.restart()

    # What callers use

    def submit(self, command: tuple[Argument, ...]) -> Reply:
        """Queue a command and return its reply to come.

        Raises:
            StoreUnavailable: as `post`.
            ValueError: the command cannot share a connection.
        """
        if command[0] in REFUSED:
            raise ValueError(f"{command[0]!r} cannot share a connection with other callers")
        reply = self._loop.create_future()
        self.post(pack(command), reply)
        return reply

    def post(self, packed: bytes, reply: Receiver, *, is_patient: bool = False) -> None:
        """Queue a command that was packed and may share a connection; `reply` is told what comes of it.

        Args:
            is_patient: nobody waits for it: it may leave some milliseconds later, together with others.

        Raises:
            StoreUnavailable: the connection is over, silent or full, or the command is too large; nothing was sent.
        """
        limits, pending, replies = self.limits, self._pending, self._replies
        if len(replies) >= limits.calls or self.is_stalled or pending.held_bytes >= limits.held_bytes:
            raise self._refusal()
        if self._transport is None or self._leaving is not None:
            raise self._refusal()
        size = len(packed)
        if size > limits.command_bytes:
            raise Oversized(f"the command has {size} bytes, more than {limits.command_bytes}")
        turn = self._turn
        if turn is None:
            turn = self._begin_turn()
        turn.is_patient &= is_patient
        turn.chunks.append(packed)
        turn.size += size
        pending.held_bytes += size
        replies.append(reply)
        deadline_s = DEADLINE.get()
        if deadline_s is not None and deadline_s < turn.due_s:
            pending.hurry(deadline_s, reply)
            self._watch.mind(deadline_s, turn.since_s)

    # What the link itself uses

    def ask(self, *command: Argument) -> Reply:
        """As `submit`, for commands that are the link's own business."""
        if not self.is_usable:
            raise self._refusal()
        return self._queue(pack(command))

    def subscribe(self, channel: str) -> Reply:
        """Subscribe, while nobody else uses the wire; the reply is `PONG`, or the server's refusal.

        A refusal ends the wire: nothing else tells a subscription's error reply from the next command's.
        """
        return self._queue(pack(("SUBSCRIBE", channel)) + pack(("PING",)))

    def goodbye(self) -> None:
        """Ask the server to end the connection after what is pending; `ended` tells when it did."""
        if self.is_usable:
            self._queue(pack(("QUIT",)))
            self._leaving = ReplyError("CLOSING", "the connection is being closed")

    def end(self, reason: Exception) -> None:
        """Close the socket at once. Whoever still waits gets `StoreUnavailable`."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._watch.stop()
        if not self.ended.done():
            self.ended.set_result(reason)
        self._turn = None
        self._departures.stop()
        self._owed = 0
        for reply in self._pending.abandon():
            reply.set_exception(StoreUnavailable("the connection to Redis ended before the answer came"))

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is none of asyncio's
        self._transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc or ConnectionError("the server closed the connection"))
        self._kept_alive = None

    def pause_writing(self) -> None:
        self._departures.pause()

    def resume_writing(self) -> None:
        self._departures.resume()

    def data_received(self, data: bytes) -> None:
        replies, owed = self._replies, self._owed
        gets, nothing = self._gets, NOTHING_YET
        try:
            self._feed(data)
            while (value := gets()) is not nothing:
                kind = type(value)
                if kind is PushNotification:
                    self._pushed(value)
                    continue
                if not owed:
                    raise _OutOfStep(f"a reply that nobody asked for: {value!r:.100}")
                owed -= 1
                reply = replies.popleft()
                if reply.done():
                    continue  # its caller gave up
                if kind is ReplyError:
                    reply.set_exception(value)
                else:
                    reply.set_result(value)
                if kind is ReplyError and value.word in FAREWELLS:
                    self._leaving = value
        except Exception as error:  # noqa: BLE001  # hiredis raises ProtocolError, TypeError, … on bytes that are no RESP
            self.end(ConnectionError(f"the server sent what cannot be understood ({error})"))
            return
        if self._transport is None:
            return  # whoever took a reply, or a push, has ended it
        self._heard(owed)

    # The rest is bookkeeping

    def _queue(self, packed: bytes) -> Reply:
        turn = self._turn or self._begin_turn()
        turn.is_patient = False
        turn.chunks.append(packed)
        turn.size += len(packed)
        self._pending.held_bytes += len(packed)
        reply = self._loop.create_future()
        reply.add_done_callback(_retrieve)
        self._replies.append(reply)
        return reply

    def _heard(self, owed: int) -> None:
        self._heard_s = now_s = self._clock.monotonic()
        settled, self._owed = self._owed - owed, owed
        since_s = self._pending.settled(settled)
        if since_s is not None:
            took_s = now_s - since_s
            self.latency_s = took_s if self.latency_s is None else self.latency_s + (took_s - self.latency_s) / 16
        if self.is_stalled:
            self.is_stalled = False
            self._events.stall_over(self)
        if self._leaving is not None and not owed and self._leaving.word in FAREWELLS:
            self.end(self._leaving)

    def _pushed(self, message: list[Any]) -> None:
        try:
            self._events.pushed(message)
        except Exception:  # noqa: BLE001  # a handler's fault must not cost the connection its step
            _log.exception("the handler of a push failed")

    def _refusal(self) -> StoreUnavailable:
        if self.ended.done() or self._transport is None:
            return StoreUnavailable("the connection to Redis has ended")
        if self._leaving is not None:
            return StoreUnavailable(f"the connection to Redis is being left: {self._leaving}")
        if self.is_stalled:
            return StoreUnavailable("Redis is stalled")
        return StoreUnavailable(f"{self.pending} calls to Redis are waiting for an answer")

    def _begin_turn(self) -> Turn:
        now_s = self._clock.monotonic()
        turn = self._turn = self._pending.begin(now_s, now_s + self.limits.deadline_s)
        self._loop.call_soon(self._end_turn)
        self._watch.mind(turn.due_s, now_s)
        return turn

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return  # the connection ended in this very turn
        self._pending.end(turn)
        self.calls += turn.count
        self._departures.add(turn)

    def _write(self, turns: Sequence[Turn]) -> None:
        if self._transport is None:
            return
        chunks: list[bytes] = []
        for turn in turns:
            self._owed += turn.count
            chunks += turn.chunks
            turn.chunks = []
        if chunks:
            self.writes += 1
            self._transport.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def _next_due_s(self) -> float | None:
        due_s = self._pending.next_due_s()
        if not self.is_stalled:
            return due_s
        told_s = self._stalled_s + self.limits.stall_s
        return told_s if due_s is None else min(due_s, told_s)

    def _expire(self, now_s: float) -> None:
        late, since_s = self._pending.take_overdue(now_s)
        for reply in late:
            reply.set_exception(StoreUnavailable("Redis did not answer within the time of the call"))
        self.timeouts += len(late)
        if since_s is not None:
            self._note_silence(since_s, now_s)
        if self.is_stalled and now_s >= self._stalled_s + self.limits.stall_s:
            self._stalled_s = now_s
            self._events.stall_lasts(self)

    def _note_silence(self, since_s: float, now_s: float) -> None:
        if self._leaving is not None:
            self.end(self._leaving)
        elif not self.is_stalled and self._heard_s < since_s:
            self.is_stalled = True
            self._stalled_s = now_s
            self._events.stall_begins(self)


def pack(command: tuple[Argument, ...]) -> bytes:
    """Return a command as it is sent."""
    return pack_command(command)  # type: ignore[arg-type, no-any-return]  # declared for tuples of one; it packs any


def _retrieve(reply: Reply) -> None:
    if not reply.cancelled():
        reply.exception()


class _OutOfStep(Exception):
    """The server sent more replies than there were commands."""
