"""Reading a request body whole, within bounds of size and time, and giving it to the application again.

The time matters as much as the size: whoever sends one byte and waits would else hold a place in the service for ever.
"""

from __future__ import annotations

import asyncio

from b1.errors import BodyTooLarge, BodyTooSlow
from b1.types import Message, Receive
from b1.units import format_bytes

# Longest silence between two pieces of a body, and longest time for the whole; a phone on a poor network does better.
SILENCE_S = 5.0
WHOLE_S = 30.0


class ClientDisconnected(Exception):
    """The client left before its body was complete: nothing may run, nothing may be claimed."""


async def read_body(
    receive: Receive, limit_bytes: int, *, silence_s: float = SILENCE_S, whole_s: float = WHOLE_S
) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLarge: more than `limit_bytes` arrived; what was read is dropped.
        BodyTooSlow: nothing came for `silence_s`, or the whole took longer than `whole_s`.
        ClientDisconnected: the client left in the middle.
    """
    chunks: list[bytes] = []
    held_bytes = 0
    loop = asyncio.get_running_loop()
    end_s = loop.time() + whole_s
    try:
        async with asyncio.timeout(min(silence_s, whole_s)) as bound:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                chunk: bytes = message.get("body", b"")
                held_bytes += len(chunk)
                if held_bytes > limit_bytes:
                    raise BodyTooLarge(f"at most {format_bytes(limit_bytes)} are read here")
                if not message.get("more_body", False):
                    return b"".join([*chunks, chunk]) if chunks else chunk
                chunks.append(chunk)
                bound.reschedule(min(end_s, loop.time() + silence_s))
    except TimeoutError:
        if not bound.expired():
            raise
        raise BodyTooSlow from None


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives `body` first and then whatever the connection says (such as its end)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
