"""One open connection to Redis, used by many callers at once: commands go out in order, replies come back in order.

A caller that gives up leaves its place in the queue: its reply is read and dropped, and the stream stays in step. This
is why no caller ever touches the socket.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from b1.clock import Clock
from b1.errors import StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

# What a command's arguments may be; numbers are written in decimal.
Argument = str | bytes | int


class ReplyError(StoreUnavailable):
    """The server answered with an error; the connection is in order.

    Attributes:
        word: what the error starts with, such as ``NOSCRIPT``, ``OOM`` or ``WRONGTYPE``.
    """

    def __init__(self, word: str, message: str) -> None:
        super().__init__(f"Redis answered {word}: {message}")
        self.word = word


class _Waiting(NamedTuple):
    future: asyncio.Future[Any]
    size: int
    sent_s: float


class Wire:
    """The queue of one connection. Made connected, ended by `run` returning.

    All state is touched by the event loop between two awaits only.

    Args:
        connection: connected, with its handshake done and nothing outstanding.
        clock: for latency and for knowing since when nothing came.
        stall_limit_s: how long a silent connection is kept; see `Link`.
    """

    def __init__(self, connection: AbstractConnection, clock: Clock, *, stall_limit_s: float) -> None:
        self.is_stalled = False
        self.latency_s: float | None = None
        self.pending_bytes = 0
        self._connection = connection
        self._clock = clock
        self._stall_limit_s = stall_limit_s
        self._waiting: deque[_Waiting] = deque()
        self._unsent: list[bytes] = []
        self._has_unsent = asyncio.Event()
        self._stalled = asyncio.Event()
        self._last_reply_s = clock.monotonic()
        self._pack = _packer(connection)

    def __repr__(self) -> str:
        state = "stalled" if self.is_stalled else "up"
        return f"Wire({state}, pending={self.pending}, pending_bytes={self.pending_bytes})"

    @property
    def pending(self) -> int:
        """Commands without a reply yet, including those whose callers gave up."""
        return len(self._waiting)

    def submit(self, command: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """Queue a command. All commands of one turn of the loop leave in one write."""
        packed = self._pack(command)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(future, len(packed), self._clock.monotonic()))
        self.pending_bytes += len(packed)
        self._unsent.append(packed)
        self._has_unsent.set()
        return future

    def note_silence(self, since_s: float) -> None:
        """A command sent at `since_s` got no reply in time: stalled, unless something came in since."""
        if self._last_reply_s < since_s and self._waiting:
            self.is_stalled = True
            self._stalled.set()

    async def run(self) -> Exception:
        """Move bytes until the connection ends; return why it did. Whoever still waits gets `StoreUnavailable`."""
        tasks = [asyncio.create_task(work()) for work in (self._read, self._write, self._watch)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._abandon()

    async def close(self) -> None:
        """Close the socket."""
        await self._connection.disconnect(nowait=True)

    async def _read(self) -> Exception:
        from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError, ResponseError

        connection = self._connection
        while True:
            try:
                reply = await connection.read_response(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
            except ReadOnlyError as error:
                # The server became a replica: the name may lead to the new primary by now.
                self._settle(_reply_error(error))
                return error
            except (ResponseError, BusyLoadingError) as error:
                reply = _reply_error(error)
            except (RedisError, OSError) as error:
                return error
            self._settle(reply)

    def _settle(self, reply: Any) -> None:
        if not self._waiting:
            return  # unasked for; nobody's
        future, size, sent_s = self._waiting.popleft()
        now_s = self._clock.monotonic()
        self._last_reply_s = now_s
        self.is_stalled = False
        self.pending_bytes -= size
        if future.done():  # its caller gave up
            return
        took_s = now_s - sent_s
        self.latency_s = took_s if self.latency_s is None else self.latency_s + (took_s - self.latency_s) / 16
        if isinstance(reply, ReplyError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    async def _write(self) -> Exception:
        from redis.exceptions import RedisError

        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            chunks, self._unsent = self._unsent, []
            try:
                await self._connection.send_packed_command([b"".join(chunks)], check_health=False)
            except (RedisError, OSError) as error:
                return error

    async def _watch(self) -> Exception:
        while True:
            await self._stalled.wait()
            self._stalled.clear()
            await asyncio.sleep(self._stall_limit_s)
            if self.is_stalled:
                return TimeoutError(f"nothing came for {self._stall_limit_s:g} s")

    def _abandon(self) -> None:
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(StoreUnavailable("the connection to Redis ended before the answer came"))
        self.pending_bytes = 0


def _packer(connection: AbstractConnection) -> Callable[[tuple[Argument, ...]], bytes]:
    try:
        from hiredis import pack_command
    except ImportError:
        return lambda command: b"".join(connection.pack_command(*command))
    # hiredis declares tuples of length one; it packs any.
    return cast("Callable[[tuple[Argument, ...]], bytes]", pack_command)


def _reply_error(error: Exception) -> ReplyError:
    # redis-py takes the first word off the errors it has a class for.
    from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError

    message = str(error)
    known = (
        (NoScriptError, "NOSCRIPT"),
        (ReadOnlyError, "READONLY"),
        (BusyLoadingError, "LOADING"),
        (OutOfMemoryError, "OOM"),
    )
    for kind, word in known:
        if isinstance(error, kind):
            return ReplyError(word, message)
    word, _, rest = message.partition(" ")
    return ReplyError(word, rest)
