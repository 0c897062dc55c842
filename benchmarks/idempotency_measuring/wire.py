"""HTTP as an unreliable phone speaks it: a connection per request, given up at any moment, even in mid-request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PATH = "/v1/finance/expenses"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The problem's code; None when the answer is no problem document."""
        is_problem = self.headers.get("content-type") == "application/problem+json"
        return json.loads(self.body)["code"] if is_problem else None

    @property
    def is_replay(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"


class NoAnswer(Exception):
    """The connection was refused or ended, or the client's patience did: what happened is unknown."""


def request(token: str, key: str, expense: Mapping[str, Any]) -> bytes:
    """Return the bytes of a keyed expense."""
    body = json.dumps(expense).encode()
    lines = (
        f"POST {PATH} HTTP/1.1", "Host: pantry", f"Authorization: Bearer {token}", f"Idempotency-Key: {key}",
        "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close",
    )  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


async def ask(port: int, data: bytes, patience_s: float) -> Answer:
    """Send `data` and return the answer.

    Raises:
        NoAnswer: there was none, or not all of it, within `patience_s`; the connection is closed.
    """
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                return await _read(reader)
            finally:
                _hang_up(writer)
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        raise NoAnswer(type(error).__name__) from error


async def leave(port: int, data: bytes) -> None:
    """Send `data`, all of a request or a part of it, and hang up at once."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            with contextlib.suppress(OSError):
                await writer.drain()
            _hang_up(writer)


def _hang_up(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (field.partition(":") for field in fields)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(int(line.split()[1]), headers, await reader.readexactly(int(headers["content-length"])))
