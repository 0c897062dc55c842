"""JSON by its values: one form for all texts that mean the same, and none for those that mean two things. Pure.

Numbers count as they are written: 0.1 and 0.10000000000000000555 are one float and two amounts. So they go from the reader
to the writer as text (`orjson.Fragment`), and the form itself is JSON again, with its members in order.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson


def canonical(body: bytes) -> bytes | None:
    """Return a form that is equal for equal values, or None where bytes have to decide.

    They do for what is no JSON, for what has two meanings (a member twice, NaN, half of a surrogate pair), and for what is
    nested deeper than anybody means.
    """
    try:
        return orjson.dumps(_READER.decode(body.decode()), option=orjson.OPT_SORT_KEYS)
    except (ValueError, TypeError, RecursionError):  # TypeError is the writer's for what cannot be written
        return None


class _Ambiguous(ValueError):
    """The text has no single meaning."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Ambiguous("a member is there twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise _Ambiguous(f"{name} is no JSON")


# Made once: it takes longer than to read a small text.
_READER = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_constant=_refuse_constant,
    parse_float=orjson.Fragment,
    parse_int=orjson.Fragment,
)
