"""What a head may be: its bounds, and what in it another server might read differently.

A "head" is the request line and the header fields. What llhttp refuses by itself (both framings at once, doubled lengths,
folded lines, bare line feeds) is listed in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httptools

from b1.errors import HeadersTooLarge, MalformedRequest
from b1.units import format_bytes

# Bytes of a path that are no text, written as %00 to %1F or %7F. Unescaped they do not pass the parser.
_CONTROL = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])")


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How large and how slow a head may be.

    Attributes:
        limit_bytes: of the request line and all fields; also of what may arrive without a head or a body in it
            (trailers, chunk extensions, empty lines).
        timeout_s: from the first byte, or the opening of the connection, to the end of the head.
    """

    limit_bytes: int
    limit_fields: int
    timeout_s: float

    def too_large(self) -> HeadersTooLarge:
        """Return the refusal that says how much is accepted."""
        return HeadersTooLarge(f"at most {format_bytes(self.limit_bytes)} and {self.limit_fields} fields are accepted")


def head_bytes(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Measure a whole head, without white space that the parser dropped."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def check_head(url: bytes, hosts: int, version: str) -> None:
    """Check what the parser lets pass.

    Raises:
        MalformedRequest: the request is ambiguous, or its path is no text.
    """
    if hosts != 1 and version == "1.1":
        raise MalformedRequest("a request has exactly one Host header")
    if b"%" in url and _CONTROL.search(url.partition(b"?")[0]):
        raise MalformedRequest("the path contains control characters")


def parsed_head(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return target and fields of a whole head that was parsed before."""
    parts = _Parts()
    httptools.HttpRequestParser(parts).feed_data(data)
    return parts.url, parts.headers


class _Parts:
    """What the parser finds."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
