"""The key as the client sent it: header fields in, one canonical string out. Pure.

``Idempotency-Key: "k"`` (an RFC 9651 String, as the IETF draft wants it) and ``Idempotency-Key: k`` (what most clients
send) are the same key. Deviation from RFC 9651 on purpose: parameters after the string are refused, since a client that
sends them expects a meaning that we do not give.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from b1.errors import IdempotencyKeyInvalid

HEADER = b"idempotency-key"
LEGACY_HEADER = b"x-idempotency-key"
MAX_LENGTH = 255

_PLAIN = re.compile(rb"[!#-+\--:<-~]{1,255}")
_BARE = re.compile(r"[\x21-\x7e]+")
_FORBIDDEN_BARE = frozenset('",;')
# Printable ASCII but '"' and '\', or one of the two escapes. A space may not be in a key, so 0x21 is the start here too.
_QUOTED = re.compile(r'"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPE = re.compile(r'\\(["\\])')
_OPTIONAL_SPACE = " \t"
_FIELD_SPACE = b" \t"


def parse_key(headers: Iterable[tuple[bytes, bytes]], *, quoted_only: bool = False) -> str | None:
    """Return the request's key, or None when neither header is there.

    Args:
        quoted_only: take what the IETF draft takes: ``Idempotency-Key`` alone, and in quotes.

    Raises:
        IdempotencyKeyInvalid: malformed, sent twice, too long, or the two headers disagree.
    """
    standard: list[bytes] = []
    legacy: list[bytes] = []
    for name, value in headers:
        if name == HEADER:
            standard.append(value)
        elif name == LEGACY_HEADER and not quoted_only:
            legacy.append(value)
    if not standard and not legacy:
        return None
    if quoted_only and not standard[0].strip(_FIELD_SPACE).startswith(b'"'):
        raise IdempotencyKeyInvalid('the key is not in quotes, expected a string such as "8e03978e"')
    keys = {_only(values) for values in (standard, legacy) if values}
    if len(keys) > 1:
        raise IdempotencyKeyInvalid("Idempotency-Key and X-Idempotency-Key carry different keys: send one of them")
    return keys.pop()


def _only(values: list[bytes]) -> str:
    if len(values) > 1:
        raise IdempotencyKeyInvalid(f"{len(values)} lines of the same key header were sent, expected one")
    return parse_value(values[0])


def parse_value(value: bytes) -> str:
    """Return the key in one field value.

    Raises:
        IdempotencyKeyInvalid: the value is neither a bare key nor a quoted string, or its length is not 1 to 255.
    """
    if _PLAIN.fullmatch(value):
        return value.decode()  # what most clients send: bare, and nothing around it
    text = value.decode("latin-1").strip(_OPTIONAL_SPACE)
    key = _unquoted(text) if text.startswith('"') else _bare(text)
    if not 1 <= len(key) <= MAX_LENGTH:
        raise IdempotencyKeyInvalid(f"the key has {len(key)} characters, expected 1 to {MAX_LENGTH}")
    return key


def _bare(text: str) -> str:
    if not text:
        raise IdempotencyKeyInvalid("the key is empty, expected 1 to 255 visible ASCII characters")
    if not _BARE.fullmatch(text) or not _FORBIDDEN_BARE.isdisjoint(text):
        raise IdempotencyKeyInvalid(
            "the key has characters that are not allowed: a bare key is visible ASCII without quote, comma and semicolon"
        )
    return text


def _unquoted(text: str) -> str:
    match = _QUOTED.fullmatch(text)
    if match is None:
        raise IdempotencyKeyInvalid(
            'a quoted key is one string of visible ASCII, with \\" and \\\\ as the only escapes and nothing after it'
        )
    return _ESCAPE.sub(r"\1", match[1])
