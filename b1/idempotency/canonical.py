"""JSON by its values: one form for all texts that mean the same, and none for those that mean two things. Pure.

Numbers count as they are written: 0.1 and 0.10000000000000000555 are one float and two amounts.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


def canonical(body: bytes) -> bytes | None:
    """Return a form that is equal for equal values, or None where bytes have to decide (a member twice, NaN, no JSON)."""
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_members,
            parse_constant=_refuse_constant,
            parse_float=_Number,
            parse_int=_Number,
        )
        written: list[bytes] = []
        _write(value, written)
    except (ValueError, RecursionError):
        return None
    return b"".join(written)


class _Ambiguous(ValueError):
    """The text has no single meaning."""


class _Number(str):
    """The text of a number; a type of its own so that 1 and "1" differ."""

    __slots__ = ()


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Ambiguous("a member is there twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise _Ambiguous(f"{name} is no JSON")


def _write(value: Any, out: list[bytes]) -> None:
    match value:
        case None | True | False:
            out.append(b"n" if value is None else b"t" if value else b"f")
        case str():
            text = value.encode("utf-8", "surrogatepass")
            out.append(b"%c%d:" % (b"d" if isinstance(value, _Number) else b"s", len(text)))
            out.append(text)
        case list():
            out.append(b"a%d:" % len(value))
            for item in value:
                _write(item, out)
        case _:
            out.append(b"o%d:" % len(value))
            for name in sorted(value):
                _write(name, out)
                _write(value[name], out)
