"""One request and its answer: uvicorn's, with an answer's head checked as a whole instead of field by field.

uvicorn runs two regular expressions over every field of every answer, 8 us for what b1 sends. A name is checked once and
remembered; what a value may not contain (controls, and with them the end of a line) is looked for once in the whole head.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from b1.asgi.context import LINES

log = logging.getLogger("b1.server")

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CRLF = b"\r\n"
# Everything that a field may hold, see RFC 9110 5.5: a tab, visible ASCII and blanks, and bytes above ASCII.
_ALLOWED = bytes({9, *range(0x20, 0x7F), *range(0x80, 0x100)})
_NAMES_LIMIT = 1024
_BODILESS = frozenset({204, 304})

_REQUEST_ID = b"x-request-id"

# Names of answer fields with what is written before their value; None: the field says how the answer is framed, or is one
# that the lines which are ready may have.
_prefixes: dict[bytes, bytes | None] = {
    b"content-length": None, b"transfer-encoding": None, b"connection": None, _REQUEST_ID: None,
}  # fmt: skip


class B1Cycle(RequestResponseCycle):
    """What the application is given as `receive` and `send`.

    Args:
        message_event: in its place the cycle has a smaller one, made when somebody waits for more of the request.
    """

    takes_lines = True  # see `b1.asgi.context.LINES`

    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    _has_come = False
    _arrival: asyncio.Event | None = None

    def __init__(
        self,
        scope: Any,
        transport: asyncio.Transport,
        flow: FlowControl,
        logger: logging.Logger,
        access_logger: logging.Logger,
        access_log: bool,
        default_headers: list[tuple[bytes, bytes]],
        message_event: asyncio.Event | None = None,
        expect_100_continue: bool = False,
        keep_alive: bool = True,
        on_response: Callable[..., None] = lambda: None,
    ) -> None:
        # Not by uvicorn's: half of what it sets are the defaults above.
        self.scope = scope
        self.transport = transport
        self.flow = flow
        self.logger = logger
        self.access_logger = access_logger
        self.access_log = access_log
        self.default_headers = default_headers
        self.on_response = on_response
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_100_continue
        self.body = bytearray()

    # What uvicorn calls `message_event`. Hardly anybody waits for it, and an `asyncio.Event` is 700 bytes.

    @property
    def message_event(self) -> Any:  # type: ignore[override]  # uvicorn has an attribute
        """Set when something has come, or the request is over."""
        return self

    def set(self) -> None:
        """Wake whoever waits."""
        self._has_come = True
        if self._arrival is not None:
            self._arrival.set()

    def clear(self) -> None:
        """Whoever asks from now on waits."""
        self._has_come = False
        if self._arrival is not None:
            self._arrival.clear()

    async def wait(self) -> None:
        """Wait until it is set."""
        if self._has_come:
            return
        if self._arrival is None:
            self._arrival = asyncio.Event()
        await self._arrival.wait()

    async def send(self, message: Any) -> None:
        """Write a part of the answer.

        Raises:
            RuntimeError: a message out of order, a field that HTTP does not allow, or a body of another length than it
                was announced.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"expected http.response.start, got {kind!r}")
            self._begin(message["status"], message.get("headers", ()), message.get(LINES, b""))
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"expected http.response.body, got {kind!r}")
            self._continue(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind!r} was sent after the end of the answer")

    def _begin(self, status: int, fields: Any, ready: bytes) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        keep_alive = self.keep_alive
        try:
            head = self._head(status, fields, ready)
        except (RuntimeError, ValueError):
            # Nothing was written: an error page may still be, and is framed by its own fields alone.
            self.response_started, self.keep_alive = False, keep_alive
            self.chunked_encoding, self.expected_content_length = None, 0
            raise
        self.transport.write(head)

    def _head(self, status: int, fields: Any, ready: bytes) -> bytes:
        parts = [STATUS_LINE[status]]
        lines = 1 + ready.count(_CRLF)
        has_close = False
        for name, value in (*self.default_headers, *fields):
            prefix = _prefixes.get(name)
            if prefix is None:
                if name == b"content-length" and self.chunked_encoding is None:  # nearly every answer: see `_frame`
                    prefix = b"content-length: "
                    self.expected_content_length = int(value)
                    self.chunked_encoding = False
                elif ready and name == _REQUEST_ID:
                    continue
                else:
                    prefix = _prefix(name)
                    has_close |= self._frame(prefix, value)
            parts += prefix, value, _CRLF
            lines += 1
        parts.append(ready)
        if not self.keep_alive and not has_close:
            parts.append(b"connection: close\r\n")
            lines += 1
        if self.chunked_encoding is None and status not in _BODILESS and self.scope["method"] != "HEAD":
            self.chunked_encoding = True
            parts.append(b"transfer-encoding: chunked\r\n")
            lines += 1
        parts.append(_CRLF)
        head = b"".join(parts)
        if head.translate(None, _ALLOWED) != _CRLF * (lines + 1):
            raise RuntimeError("a field of the answer holds control characters")
        return head

    def _frame(self, prefix: bytes, value: bytes) -> bool:
        """Take from a field how the answer is framed; say whether it closes the connection."""
        if prefix == b"content-length: " and self.chunked_encoding is None:
            self.expected_content_length = int(value)
            self.chunked_encoding = False
        elif prefix == b"transfer-encoding: " and value.lower() == b"chunked":
            self.expected_content_length = 0
            self.chunked_encoding = True
        elif prefix == b"connection: " and b"close" in [token.strip() for token in value.lower().split(b",")]:
            self.keep_alive = False
            return True
        return False

    def _continue(self, body: bytes, more_body: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more_body:
                chunk += b"0\r\n\r\n"
            if chunk:
                self.transport.write(chunk)
        elif len(body) > self.expected_content_length:
            raise RuntimeError("the body is longer than its Content-Length")
        else:
            self.expected_content_length -= len(body)
            if body:
                self.transport.write(body)
        if more_body:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than its Content-Length")
        self.response_complete = True
        self.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Waiting:
    """The cycle of a request whose answer is made as soon as the store has decided; it has no task.

    Args:
        owner: the connection, told when that is so.

    Attributes:
        head: the request as it came, where it was not parsed.
    """

    __slots__ = (
        "_owner", "arrived_s", "disconnected", "head", "headers", "keep_alive", "more_body", "response_complete", "url",
    )  # fmt: skip

    response_started = False
    chunked_encoding = None

    def __init__(self, owner: Any, url: bytes, headers: list[tuple[bytes, bytes]], arrived_s: float) -> None:
        self._owner = owner
        self.url = url
        self.headers = headers
        self.head: bytes | None = None
        self.arrived_s = arrived_s
        self.response_complete = self.disconnected = False
        self.keep_alive = self.more_body = True

    @property
    def message_event(self) -> Waiting:
        """Nobody waits for more of the request."""
        return self

    def set(self) -> None:
        """Wake nobody."""

    def take(self, answer: Any, decision: Any) -> None:
        """Pass on what was decided, unless the client has gone.

        Called by the connection to Redis, which an error here must not reach: it carries everybody's requests.
        """
        self.response_complete = True
        if self.disconnected:
            return
        try:
            self._owner.go_on(self, answer, decision)
        except Exception:
            log.exception("an answer could not be sent")
            self._owner.transport.abort()


class Answered:
    """The cycle of a request that was answered at once: nothing is left of it. One for all, because it holds nothing."""

    response_started = response_complete = True
    more_body = disconnected = False
    keep_alive = True
    chunked_encoding = None

    @property
    def message_event(self) -> Answered:
        """Nobody waits."""
        return self

    def set(self) -> None:
        """Wake nobody."""


def _prefix(name: bytes) -> bytes:
    """Check a field's name, and remember it; the few that need more than writing are looked at each time."""
    lower = name.lower()
    if not _TOKEN.fullmatch(lower):
        raise RuntimeError(f"{name!r} is no name of a field")
    prefix = lower + b": "
    if lower not in _prefixes and len(_prefixes) < _NAMES_LIMIT:
        _prefixes[lower] = prefix
    return prefix


ANSWERED = cast("RequestResponseCycle", Answered())
