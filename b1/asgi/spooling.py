"""Reading a request body of any size with a bounded amount of memory, and giving it to the application again.

Time is bounded as for small bodies (`b1.asgi.body`), and beyond that a body may last as long as it comes in at a rate that
a poor network reaches: the limit is on clients that hold a place and send nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
    loop = asyncio.get_running_loop()
    began_s, taken_bytes = loop.time(), 0
    try:
        async with asyncio.timeout(min(silence_s, whole_s)) as bound:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                piece: bytes = message.get("body", b"")
                taken_bytes += len(piece)
                if taken_bytes > limit_bytes:
                    raise BodyTooLarge(f"at most {format_bytes(limit_bytes)} are read here")
                feed(piece)
                await spool.write(piece)
                if not message.get("more_body", False):
                    break
                end_s = began_s + min(LONGEST_S, whole_s + taken_bytes / LEAST_BYTES_PER_S)
                bound.reschedule(min(end_s, loop.time() + silence_s))
    except TimeoutError:
        if not bound.expired():
            raise
        raise BodyTooSlow from None
    if length is not None and taken_bytes != length:
        raise ClientDisconnected


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
