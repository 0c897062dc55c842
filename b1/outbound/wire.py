"""One POST over a connection of its own: resolve, judge the address, connect, send, read the answer's head, close.

Not an HTTP client: no redirects, no cookies, no pool, no proxy, no body of the answer. It uses what the interpreter has
loaded anyway, because an HTTP library would cost megabytes for a few messages a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from b1.outbound.addresses import is_public
from b1.outbound.resolver import Resolve, Resolver
from b1.outbound.target import Target

HEAD_LIMIT_BYTES = 16 * 1024
ADDRESSES = 4
INTERIM_ANSWERS = 5
GOODBYE_S = 0.5


class AddressRefused(OSError):
    """The name resolves to addresses that messages may not go to."""


class BadAnswer(OSError):
    """What came back is not an HTTP answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer. Header names are in lower case; of repeated ones the first counts."""

    status: int
    headers: dict[str, str]


class Wire:
    """Sends to one target.

    Args:
        allow_private: addresses that are not public are allowed.
        agent: the User-Agent.
        allowed_by: what the message of a refused address says about allowing it.
        resolve: name and port to addresses; replaced in tests.
        before: the wire that this one replaces; its certificates, and what it knows of the same name, are used again.
    """

    def __init__(
        self,
        target: Target,
        *,
        allow_private: bool,
        agent: str = "b1",
        allowed_by: str = "",
        resolve: Resolve | None = None,
        before: Wire | None = None,
    ) -> None:
        self._target = target
        self._allow_private = allow_private
        self._agent = agent
        self._allowed_by = allowed_by
        self._resolve: Resolve = resolve or Resolver().addresses
        if before is not None and before._target.host == target.host:
            self._resolve = before._resolve
        self._tls: ssl.SSLContext | None = before._tls if before is not None else None

    def __repr__(self) -> str:
        return f"<Wire to {self._target.host}:{self._target.port}>"

    async def prepare(self, limit_s: float) -> None:
        """Do what must not be done first under pressure: load the certificates, resolve once (and its thread)."""
        with contextlib.suppress(OSError):  # TimeoutError is one; each attempt does again what did not work here
            async with asyncio.timeout(limit_s):
                await self._load_certificates()
                await self._resolve(self._target.host, self._target.port)

    async def post(
        self, body: bytes, headers: Iterable[tuple[str, str]], *, limit_s: float, path: str | None = None
    ) -> Answer:
        """Send one request and return the head of its answer.

        Args:
            path: another request target than the target's own, percent-encoded.

        Raises:
            AddressRefused: no address of the receiver may be connected to.
            TimeoutError: it took longer than `limit_s`.
            OSError: it did not work, TLS and malformed answers included.
            ValueError: a header holds a line break or is not ASCII; nothing was sent.
        """
        head = self._head(len(body), headers, path or self._target.path)
        async with asyncio.timeout(limit_s):
            reader, writer = await self._connect(limit_s)
            try:
                writer.write(head + body)
                await writer.drain()
                return await _read_answer(reader)
            finally:
                await _close(writer)

    async def _connect(self, limit_s: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self._target
        await self._load_certificates()
        found = await self._resolve(target.host, target.port)
        allowed = [address for address in found if self._allow_private or is_public(address)]
        if not allowed:
            raise AddressRefused(f"the receiver's address is not public{self._allowed_by}")
        failure: OSError = ConnectionError("no address")
        for address in allowed[:ADDRESSES]:
            try:
                # A literal address: what was judged is what is connected to, whatever the name resolves to next.
                async with asyncio.timeout(limit_s / 2):
                    return await asyncio.open_connection(
                        address,
                        target.port,
                        ssl=self._tls if target.is_tls else None,
                        server_hostname=target.host if target.is_tls else None,
                        limit=HEAD_LIMIT_BYTES,
                    )
            except OSError as error:  # TimeoutError is one
                failure = error
        raise failure

    async def _load_certificates(self) -> None:
        if self._target.is_tls and self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)

    def _head(self, length: int, headers: Iterable[tuple[str, str]], path: str) -> bytes:
        target = self._target
        fields = [
            ("Host", target.host_header),
            ("User-Agent", self._agent),
            ("Content-Type", "application/json"),
            ("Content-Length", str(length)),
            ("Connection", "close"),
            *headers,
        ]
        if target.authorization is not None:
            fields.append(("Authorization", target.authorization))
        if any("\r" in text or "\n" in text for field in fields for text in field):
            raise ValueError("a header of the message holds a line break")
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        return "\r\n".join(lines).encode("ascii")


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    for _ in range(INTERIM_ANSWERS):
        answer = _parse(await _read_head(reader))
        if answer.status >= 200:
            return answer
    raise BadAnswer("it keeps announcing an answer and gives none")


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        raise BadAnswer(
            "the connection was closed in the middle of the answer" if cut.partial else "no answer"
        ) from None
    except asyncio.LimitOverrunError:
        raise BadAnswer("the answer's head is too long") from None


def _parse(head: bytes) -> Answer:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
        raise BadAnswer("it does not speak HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return Answer(int(words[1]), headers)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(GOODBYE_S):
            await writer.wait_closed()
    except OSError:  # TimeoutError is one: the receiver does not say goodbye, its answer is known
        writer.transport.abort()
