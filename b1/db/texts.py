"""The text of a statement without its values, so that it can be counted and logged.

Arithmetic. Everything that could be a value goes: strings in every spelling Postgres knows, numbers, comments (tools put
identities there); lists of values become one. Names stay, quoted ones included. What is cut off in the middle of a literal
counts as part of that literal: doubt never prints anything.
"""

from __future__ import annotations

import re

# Longer texts are cut before they are read: nobody recognises a statement by its fifth kilobyte.
READ_CHARS = 4096
KEPT_CHARS = 300

_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<escaped> \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z) )
    | (?P<plain> (?:\b(?:[bBxXnN]|[uU]&))?'(?:[^']|'')*(?:'|\Z) )
    | (?P<dollar> (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z) )
    | (?P<parameter> (?<![\w$])\$\d+ )
    | (?P<name> "(?:[^"]|"")*(?:"|\Z) | [^\W\d][\w$]* )
    | (?P<number> (?:\d[\w.]*|\.\d[\w.]*)(?:(?<=[eE])[+-]\d+)? )
    | (?P<space> \s+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_VALUE = r"-?\?(?: ?:: ?\w+)?"
_LIST = re.compile(rf"(?<=[(\[]){_VALUE}(?:, {_VALUE})+(?=[)\]])")
_ROWS = re.compile(r"\(\?\)(?:, \(\?\))+")
_AFTER_OPENING = re.compile(r"(?<=[(\[]) ")
_BEFORE_CLOSING = re.compile(r" (?=[)\],;])")
_COMMA = re.compile(r",(?=\S)")


def normalised(text: str) -> str:
    """Return `text` with ``?`` for every value, on one line, of at most `KEPT_CHARS` characters and a mark that it was cut.

    ``IN (1, 2)`` and ``IN ($1)`` become ``IN (?)``, as many rows as there may be after ``VALUES`` become one, and so does
    the list in ``ARRAY[…]``.
    """
    found = " ".join(_TOKEN.sub(_replace, text[:READ_CHARS]).split())
    found = _COMMA.sub(", ", _BEFORE_CLOSING.sub("", _AFTER_OPENING.sub("", found)))
    found = _ROWS.sub("(?)", _LIST.sub("?", found)).strip(" ;")
    if len(text) > READ_CHARS or len(found) > KEPT_CHARS:
        return found[:KEPT_CHARS] + "…"
    return found


def _replace(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "name":
        return match.group()
    return " " if kind in ("comment", "space") else "?"
