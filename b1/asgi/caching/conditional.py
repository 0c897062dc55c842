"""Conditional requests against one stored representation: 304, 412, or the answer itself.

The order of the conditions is that of RFC 9110 §13.2.2. What cannot be parsed is not there, which means the whole answer:
the safe side. An answer without Last-Modified is never judged by date: our own time of storing has whole seconds, and a
change within the second would pass for none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from b1.asgi.caching.directives import date_of
from b1.types import Headers

OK, NOT_MODIFIED, FAILED = 200, 304, 412
_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_TAGS = re.compile(rb'[ \t,]*(?:(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"[ \t]*(?:,[ \t]*)*)+')


def is_conditional(fields: Mapping[bytes, bytes]) -> bool:
    """Say whether the request has any condition."""
    return (
        b"if-none-match" in fields
        or b"if-modified-since" in fields
        or b"if-match" in fields
        or b"if-unmodified-since" in fields
    )


def judge(headers: Headers, etag: bytes, modified_s: float | None) -> int:
    """Return 304 or 412 as the conditions of a GET or HEAD have it, else 200.

    Args:
        headers: the request's, all lines.
        etag: of the representation that would be sent, quoted, strong or weak.
        modified_s: when it was last changed, if the handler said so.
    """
    match, none_match = _joined(headers, b"if-match"), _joined(headers, b"if-none-match")
    if match is not None:
        if not matches(match, etag, is_strong=True):
            return FAILED
    elif modified_s is not None:
        until_s = _date(headers, b"if-unmodified-since")
        if until_s is not None and modified_s > until_s:
            return FAILED
    if none_match is not None:
        return NOT_MODIFIED if matches(none_match, etag, is_strong=False) else OK
    if modified_s is not None:
        since_s = _date(headers, b"if-modified-since")
        if since_s is not None and modified_s <= since_s:
            return NOT_MODIFIED
    return OK


def matches(value: bytes, etag: bytes, *, is_strong: bool) -> bool:
    """Say whether a list of entity tags, or ``*``, names this one. A weak tag never matches strongly."""
    if value.strip(b" \t") == b"*":
        return True
    if not _TAGS.fullmatch(value):
        return False
    is_weak = etag.startswith(b"W/")
    if is_strong and is_weak:
        return False
    opaque = etag[2:] if is_weak else etag
    return any(tag == opaque and not (is_strong and weak) for weak, tag in _TAG.findall(value))


def is_tag(value: bytes) -> bool:
    """Say whether a handler's ETag is one."""
    return _TAG.fullmatch(value) is not None


def _joined(headers: Headers, name: bytes) -> bytes | None:
    values = [value for given, value in headers if given == name]
    return b",".join(values) if values else None


def _date(headers: Headers, name: bytes) -> float | None:
    values = [value for given, value in headers if given == name]
    return date_of(values[0]) if len(values) == 1 else None
