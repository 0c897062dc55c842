"""Multipart bodies by their parts, digested while they arrive. Pure.

What does not count: the boundary, which clients invent anew for every try; what stands before the first and after the last
delimiter (RFC 2046, 5.1.1); in ``multipart/form-data`` the order of parts with different names (RFC 7578 gives none a
meaning; the order of parts with one name has it, 5.2). What counts: names, filenames, all other fields of a part, contents.
A body that strays from the grammar has no parts: its bytes decide.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterable

from b1.idempotency.digests import digest_of

PARTS_MOST = 2000
_HEAD_MOST_BYTES = 16 * 1024
_PADDING_MOST_BYTES = 256
_CRLF = b"\r\n"
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A quoted value is taken as it stands: browsers write a backslash of a filename without escaping it (RFC 7578, 4.2).
_PARAMETER = re.compile(
    rb""";[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))[ \t]*"""
)
_BOUNDARY = re.compile(rb"""[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]""")
_DEFAULT_TYPE = b"text/plain"  # RFC 7578, 4.4
# The three encodings that change nothing (RFC 2045, 6.2).
_IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})


class _At(enum.Enum):
    PREAMBLE = enum.auto()
    DELIMITER = enum.auto()  # behind its text: padding, the end of the line, or "--"
    HEAD = enum.auto()
    CONTENT = enum.auto()
    EPILOGUE = enum.auto()
    STRAYED = enum.auto()


class _Strayed(ValueError):
    """The body is not what the grammar allows."""


def boundary_of(content_type: bytes) -> bytes | None:
    """Return the one boundary that a content type names; None when there is none, or more than one."""
    found = [value for name, value in parameters(content_type.partition(b";")[1:]) or () if name == b"boundary"]
    return found[0] if len(found) == 1 and _BOUNDARY.fullmatch(found[0]) else None


def parameters(rest: Iterable[bytes]) -> list[tuple[bytes, bytes]] | None:
    """Return the parameters in `rest` (the pieces from the first semicolon on); None when it is no list of them."""
    text, at, found = b"".join(rest).rstrip(b" \t;"), 0, []
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None
        found.append((match[1].lower(), match[3] if match[2] is None else match[2]))
        at = match.end()
    return found


class MultipartDigest:
    """Takes a body in pieces of any size; holds one part's head and the last few bytes, never a content.

    Args:
        is_form: the subtype is form-data.
    """

    def __init__(self, boundary: bytes, *, is_form: bool) -> None:
        self._delimiter = _CRLF + b"--" + boundary
        self._is_form = is_form
        self._at = _At.PREAMBLE
        self._held = _CRLF  # the first delimiter may open the body, without a line's end of its own
        self._head = b""
        self._content = hashlib.sha256()
        self._parts: list[tuple[bytes, bytes]] = []

    def __repr__(self) -> str:
        return f"<MultipartDigest {self._at.name.lower()} parts={len(self._parts)}>"

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._held += data
        try:
            while self._step():
                pass
        except _Strayed:
            self._at = _At.STRAYED
        if self._at in (_At.EPILOGUE, _At.STRAYED):
            self._held = b""

    def parts(self) -> list[bytes] | None:
        """Return one digest per part, in the order that counts; None when the body was not complete or strayed."""
        if self._at is not _At.EPILOGUE:
            return None
        # Stable: parts with one name keep their order.
        parts = sorted(self._parts, key=lambda part: part[0]) if self._is_form else self._parts
        return [digested for _, digested in parts]

    def _step(self) -> bool:
        """Go on as far as what is held allows; say whether there may be more to do."""
        match self._at:
            case _At.PREAMBLE:
                return self._skip_to_delimiter()
            case _At.DELIMITER:
                return self._end_delimiter()
            case _At.HEAD:
                return self._read_head()
            case _At.CONTENT:
                return self._read_content()
            case _:
                return False

    def _skip_to_delimiter(self) -> bool:
        before, found, after = self._held.partition(self._delimiter)
        if not found:
            self._held = before[-len(self._delimiter) + 1 :]
            return False
        self._held, self._at = after, _At.DELIMITER
        return True

    def _end_delimiter(self) -> bool:
        if self._held.startswith(b"--"):
            self._at = _At.EPILOGUE
            return False
        rest = self._held.lstrip(b" \t")
        if len(self._held) - len(rest) > _PADDING_MOST_BYTES:
            raise _Strayed
        if len(rest) < len(_CRLF):
            if rest not in (b"", b"\r", b"-"):
                raise _Strayed
            return False
        if not rest.startswith(_CRLF) or len(self._parts) >= PARTS_MOST:
            raise _Strayed
        self._held, self._at = rest, _At.HEAD
        return True

    def _read_head(self) -> bool:
        # What is held begins with the delimiter line's end, so that a part without any field looks like the others.
        head, found, after = self._held.partition(_CRLF + _CRLF)
        if len(head) > _HEAD_MOST_BYTES:
            raise _Strayed
        if not found:
            return False
        self._head, self._held, self._at = head[len(_CRLF) :], after, _At.CONTENT
        self._content = hashlib.sha256()
        return True

    def _read_content(self) -> bool:
        end = self._held.find(self._delimiter)
        if end < 0:
            sure = max(0, len(self._held) - len(self._delimiter) + 1)
            self._content.update(memoryview(self._held)[:sure])
            self._held = self._held[sure:]
            return False
        self._content.update(memoryview(self._held)[:end])
        self._parts.append(self._part())
        self._held, self._at = self._held[end + len(self._delimiter) :], _At.DELIMITER
        return True

    def _part(self) -> tuple[bytes, bytes]:
        name, described = _described(self._head, is_form=self._is_form)
        return name, digest_of([*described, b"content", self._content.digest()])


def _described(head: bytes, *, is_form: bool) -> tuple[bytes, list[bytes]]:
    """Return a part's name, and all that its head says in one order."""
    fields = sorted(_fields(head), key=lambda field: field[0])
    names = [name for name, _ in fields]
    name = b""
    described: list[bytes] = []
    for field, value in fields:
        if field == b"content-disposition":
            kind, *rest = value.partition(b";")
            found = parameters(rest)
            if found is None or len(dict(found)) != len(found) or names.count(field) > 1:
                raise _Strayed
            name = dict(found).get(b"name", b"")
            texts = (text for pair in sorted(found) for text in pair)
            described += (field, digest_of([kind.strip().lower(), *texts]))
        elif field == b"content-transfer-encoding" and value.lower() in _IDENTITY:
            continue
        else:
            described += (field, value)
    if is_form:
        if b"content-disposition" not in names:
            raise _Strayed
        if b"content-type" not in names:
            described += (b"content-type", _DEFAULT_TYPE)
    return name, described


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = []
    for line in head.split(_CRLF) if head else ():
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or b"\r" in value or b"\n" in value:
            raise _Strayed
        fields.append((name.lower(), value.strip(b" \t")))
    return fields
