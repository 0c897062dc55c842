"""Reading a request body of any size with a bounded amount of memory, and giving it to the application again.

Time is bounded as for small bodies (`b1.asgi.body`), and beyond that a body may last as long as it comes in at a rate that
a poor network reaches: the limit is on clients that hold a place and send nothing.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from b1.asgi.body import SILENCE_S, WHOLE_S, ClientDisconnected
from b1.errors import BodyTooLarge, BodyTooSlow
from b1.idempotency.spool import Spool
from b1.types import Message, Receive
from b1.units import KIB, format_bytes

LEAST_BYTES_PER_S = 128 * KIB
# The front end ends a request after 230 s; the handler wants some of that time too.
LONGEST_S = 200.0


async def spool_body(
    receive: Receive,
    spool: Spool,
    feed: Callable[[bytes], None],
    *,
    limit_bytes: int,
    length: int | None = None,
    silence_s: float = SILENCE_S,
    whole_s: float = WHOLE_S,
) -> None:
    """Write the whole body to `spool`, and give each piece to `feed` on its way.

    Args:
        length: what the client announced; another number of bytes is a broken upload.

    Raises:
        BodyTooLarge: more than `limit_bytes` arrived.
        BodyTooSlow: nothing came for `silence_s`, or too little since the beginning.
        ClientDisconnected: the client left in the middle.
        Overloaded: no room on disk.
    """
    taken_bytes, coming = 0, _begin(receive)
    if not isinstance(coming, _Waiting):
        # Most bodies are here with their head, and need no timer.
        taken_bytes = await _take(coming, 0, spool, feed, limit_bytes)
        if coming.get("more_body", False):
            taken_bytes = await _take_rest(
                receive(), receive, taken_bytes, spool, feed, limit_bytes, silence_s, whole_s
            )
    else:
        rest = coming.rest()
        taken_bytes = await _take_rest(rest, receive, 0, spool, feed, limit_bytes, silence_s, whole_s)
    if length is not None and taken_bytes != length:
        raise ClientDisconnected


async def _take_rest(
    first: Awaitable[Message],
    receive: Receive,
    taken_bytes: int,
    spool: Spool,
    feed: Callable[[bytes], None],
    limit_bytes: int,
    silence_s: float,
    whole_s: float,
) -> int:
    """Take what is still on its way, `first` to begin with, and return how much was taken in all."""
    loop = asyncio.get_running_loop()
    began_s, coming = loop.time(), first
    try:
        async with asyncio.timeout(min(silence_s, whole_s)) as bound:
            while True:
                message = await coming
                taken_bytes = await _take(message, taken_bytes, spool, feed, limit_bytes)
                if not message.get("more_body", False):
                    return taken_bytes
                end_s = began_s + min(LONGEST_S, whole_s + taken_bytes / LEAST_BYTES_PER_S)
                bound.reschedule(min(end_s, loop.time() + silence_s))
                coming = receive()
    except TimeoutError:
        if not bound.expired():
            raise
        raise BodyTooSlow from None


async def _take(
    message: Message, taken_bytes: int, spool: Spool, feed: Callable[[bytes], None], limit_bytes: int
) -> int:
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    piece: bytes = message.get("body", b"")
    taken_bytes += len(piece)
    if taken_bytes > limit_bytes:
        raise BodyTooLarge(f"at most {format_bytes(limit_bytes)} are read here")
    feed(piece)
    await spool.write(piece)
    return taken_bytes


def _begin(receive: Receive) -> Message | _Waiting:
    """Ask for a message and return it, if it is there; else what remains of the asking."""
    steps = receive().__await__()
    try:
        return _Waiting(steps, next(steps))
    except StopIteration as end:
        message: Message = end.value
        return message


class _Waiting:
    """A call of `receive` that was begun outside of any time limit, and now waits for `awaited`."""

    __slots__ = ("_awaited", "_steps")

    def __init__(self, steps: Generator[Any, Any, Message], awaited: object) -> None:
        self._steps = steps
        self._awaited = awaited

    @types.coroutine
    def rest(self) -> Generator[Any, Any, Message]:
        """Go on with it."""
        steps = self._steps
        try:
            yield self._awaited
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:  # noqa: BLE001 - a cancellation, or what it waited for failed: the call's own
            try:
                self._awaited = steps.throw(error)
            except StopIteration as end:
                message: Message = end.value
                return message
            return (yield from self.rest())  # it took the error and waits on
        return (yield from steps)


def replay_spool(spool: Spool, receive: Receive) -> Receive:
    """Return a receive that gives the spooled body, piece by piece, and then whatever the connection says."""
    given_bytes = 0
    is_over = False

    async def again() -> Message:
        nonlocal given_bytes, is_over
        if is_over:
            return await receive()
        piece = await spool.read(given_bytes)
        given_bytes += len(piece)
        is_over = given_bytes >= len(spool)
        return {"type": "http.request", "body": piece, "more_body": not is_over}

    return again
