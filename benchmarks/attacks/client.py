"""A small, strict HTTP/1.1 client: nothing is retried, and what happened to a request is told apart exactly.

A connection that the server ended between two requests is opened anew, which is no loss. One that ends after a request was
sent is: no proxy may repeat every request, so nobody is promised that somebody did.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

ANSWER_LIMIT_S = 15.0


class Lost(Exception):
    """A request was sent, or could not be sent, and no whole answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Client:
    """Somebody who sends one request after the other.

    Attributes:
        is_kept: the connection stays open between requests.
        headers: sent with every request.
    """

    port: int
    is_kept: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Send a request and return its answer.

        Raises:
            Lost: with the reason.
        """
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                reader, writer = await self._connected()
                writer.write(request_head(method, path, len(body), self.headers, is_kept=self.is_kept) + body)
                answer = await _read(reader)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise Lost(f"{method} {path}: {type(error).__name__} {error}") from None
        if not self.is_kept or answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await asyncio.sleep(0)  # let an end that has arrived be seen
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self._reader, self._writer


def request_head(method: str, path: str, length: int, headers: dict[str, str], *, is_kept: bool = True) -> bytes:
    """Return a request up to its body."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"content-length: {length}"] if length or method != "GET" else []
    lines += [] if is_kept else ["connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if "chunked" in headers.get("transfer-encoding", ""):
        raise ValueError("a chunked answer was not expected")
    return Answer(int(first.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", "0"))))
