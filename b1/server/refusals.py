"""Requests that the protocol refuses before they become requests: counted, answered, and logged at a bounded rate.

An attack sends thousands a second. One line for each would make the log the victim.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from b1.asgi.reply import PROBLEM_TYPE, problem
from b1.clock import Clock
from b1.errors import RequestError

log = logging.getLogger("b1.server")

LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class RefusalsSnapshot:
    """How many requests were refused, by reason: codes of `b1.errors`, and ``HEADERS_TOO_SLOW``."""

    by_reason: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_reason.values())


class Refusals:
    """Counts refusals of all connections of this worker.

    Reasons are codes, a bounded set; the detail of the newest refusal goes into the line.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_reason: dict[str, int] = {}
        self._unsaid = 0
        self._next_line_s = clock.monotonic()

    def __repr__(self) -> str:
        return f"Refusals({self._by_reason})"

    def note(self, reason: str, detail: str, client: str | None) -> None:
        """Count one, and log a line unless there was one in the last ten seconds."""
        self._by_reason[reason] = self._by_reason.get(reason, 0) + 1
        self._unsaid += 1
        now_s = self._clock.monotonic()
        if now_s < self._next_line_s:
            return
        self._next_line_s = now_s + LINE_EVERY_S
        fields = {"reason": reason, "detail": detail, "peer": client, "requests": self._unsaid}
        self._unsaid = 0
        log.warning("requests were refused while they arrived", extra=fields)

    def snapshot(self) -> RefusalsSnapshot:
        """Return the counts."""
        return RefusalsSnapshot(dict(self._by_reason))


def answer_bytes(error: RequestError, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a whole HTTP/1.1 answer with the problem document of `error`, after which the connection ends."""
    request_id = os.urandom(16).hex()
    body = orjson.dumps(
        problem(status=error.status, code=error.code, title=error.title, detail=error.detail, request_id=request_id)
    )
    headers = [
        *((name, value) for name, value in default_headers if name != b"connection"),
        (b"content-type", PROBLEM_TYPE),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", body])
