"""Reading a request body whole within a bound, and giving it to the application again."""

from __future__ import annotations

from b1.errors import BodyTooLarge
from b1.types import Message, Receive
from b1.units import format_bytes


class ClientDisconnected(Exception):
    """The client left before its body was complete: nothing may run, nothing may be claimed."""


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLarge: more than `limit_bytes` arrived; what was read is dropped.
        ClientDisconnected: the client left in the middle.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise BodyTooLarge(f"at most {format_bytes(limit_bytes)} are read here")
        return body
    chunks: list[bytes] = []
    held_bytes = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        held_bytes += len(chunk)
        if held_bytes > limit_bytes:
            raise BodyTooLarge(f"at most {format_bytes(limit_bytes)} are read here")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()


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
