"""Reads Cache-Control, lists and dates out of header fields, strictly: what is unclear counts as the less permissive.

A duration that does not parse is 0 and of two the shorter one holds (RFC 9111 §4.2.1 encourages both), so a typing error
in a handler never makes an answer live longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from b1.types import Headers

# An element of a list: quoted strings may hold commas.
_ELEMENT = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')
# Whether all its quoted strings end.
_CLOSED = re.compile(rb'(?:[^"]|"(?:[^"\\]|\\.)*")*', re.DOTALL)
_HIGHEST_S = 2**31
_DIGITS_MOST = 18
# What a date begins with, in the three forms of RFC 9110 §5.6.7. Anything else is no date, however well it can be guessed.
_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT"
    r"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, \d{2}-[A-Z][a-z]{2}-\d{2} \d{2}:\d{2}:\d{2} GMT"
    r"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2} \d{4}"
)

Fields = Mapping[bytes, Sequence[bytes]]


def fields_of(headers: Headers) -> dict[bytes, list[bytes]]:
    """Return the lines of every field by its lower-case name."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found


def elements(lines: Iterable[bytes]) -> list[bytes]:
    """Return the non-empty elements of a list field, over all its lines."""
    found = (element.strip(b" \t") for line in lines for element in _ELEMENT.findall(line))
    return [element for element in found if element]


class Directives:
    """The directives of a Cache-Control field; names are lower case."""

    __slots__ = ("_values",)

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._values: dict[bytes, list[bytes | None]] = {}
        for element in elements(lines):
            self._add(element)
            if b'"' in element and not _CLOSED.fullmatch(element):
                for part in element.split(b",")[1:]:  # what a string without an end swallows may have been meant
                    self._add(part.strip(b" \t"))

    def __repr__(self) -> str:
        return f"Directives({b', '.join(self._values).decode('latin-1')})"

    def _add(self, element: bytes) -> None:
        name, has_value, value = element.partition(b"=")
        known = name.rstrip(b" \t").lower()
        # "max-age =100" and "max-age= 100" are no directives: they keep their name, and their value is not understood.
        given = None if not has_value else value if known == name.lower() else b"?"
        self._values.setdefault(known, []).append(given)

    def __contains__(self, name: bytes) -> bool:
        return name in self._values

    def __bool__(self) -> bool:
        return bool(self._values)

    def seconds(self, name: bytes) -> int | None:
        """Return a duration; None without the directive, 0 when it is not understood, the shortest when it is repeated."""
        values = self._values.get(name)
        return None if values is None else min(_seconds(value) for value in values)


def _seconds(value: bytes | None) -> int:
    if value is None:
        return 0
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        value = value[1:-1]
    if not value.isdigit():
        return 0
    return min(int(value), _HIGHEST_S) if len(value) <= _DIGITS_MOST else _HIGHEST_S


def age_of(lines: Sequence[bytes]) -> int:
    """Return the age that an answer came with, in seconds; of several the first, 0 when it is none (RFC 9111 §5.1)."""
    if not lines:
        return 0
    first = lines[0].split(b",")[0].strip(b" \t")
    if not first.isdigit():
        return 0
    return min(int(first), _HIGHEST_S) if len(first) <= _DIGITS_MOST else _HIGHEST_S


def date_of(value: bytes) -> float | None:
    """Return a date as seconds since 1970; None when it is none of the forms of RFC 9110."""
    text = value.decode("latin-1").strip(" \t")
    if not _DATE.fullmatch(text):
        return None
    try:
        parsed = parsedate_to_datetime(text)
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC).timestamp() if parsed.tzinfo is None else parsed.timestamp()
