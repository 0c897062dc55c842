"""A closed load over kept connections, every answer checked: right for CPU per request, wrong for latency."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from measuring.load import UnexpectedAnswer

ANSWER_LIMIT_S = 120.0


def post_request(path: str, headers: Mapping[str, str], body: Any, key: str | None) -> bytes:
    """Return a whole POST, with a key or without."""
    content = json.dumps(body).encode()
    keyed = {} if key is None else {"idempotency-key": key}
    fields = {"host": "127.0.0.1", **headers, **keyed, "content-type": "application/json"}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"content-length: {len(content)}", "", ""]).encode() + content


async def run_requests(
    port: int, requests: Sequence[bytes], status: int, proof: bytes = b"", *, lines: int = 4
) -> bytes:
    """Send all `requests` over `lines` connections and return the last answer's body.

    Raises:
        UnexpectedAnswer: another status, or a head without `proof`.
    """
    waiting = iter(requests)
    bodies: list[bytes] = []

    async def line(waiting: Iterator[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for request in waiting:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                body = await reader.readexactly(int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0]))
                if int(head.split(b" ", 2)[1]) != status or proof not in lower:
                    raise UnexpectedAnswer(f"expected {status} with {proof!r}, got {head!r} {body[:300]!r}")
                bodies.append(body)
        finally:
            writer.close()

    async with asyncio.timeout(ANSWER_LIMIT_S):
        await asyncio.gather(*(line(waiting) for _ in range(lines)))
    return bodies[-1]
