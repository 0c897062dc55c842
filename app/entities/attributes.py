"""What may stand in an entity's attributes: JSON that Postgres stores and every client reads back unchanged.

JSON as Python reads it is wider than that: NaN, numbers of a thousand digits, half a character, NUL. Nothing of it may
reach the database, where it would fail with the server's words, or be changed on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic_core import PydanticCustomError

from app.entities.queries import ATTRIBUTES_MAX_BYTES

DEPTH_MAX = 16
_INT8_MAX = 2**63 - 1


def attributes_text(attributes: dict[str, Any]) -> str:
    """Return the attributes as JSON text.

    Raises:
        PydanticCustomError: something in them cannot be stored; it becomes a 422 that says what.
    """
    _check(attributes)
    text = orjson.dumps(attributes)
    if len(text) > ATTRIBUTES_MAX_BYTES:
        raise PydanticCustomError(
            "attributes_too_large",
            "Attributes are {seen} bytes of JSON; at most {most} are stored",
            {"seen": len(text), "most": ATTRIBUTES_MAX_BYTES},
        )
    return text.decode()


def _check(root: dict[str, Any]) -> None:
    """Walk level by level, so that depth costs no stack."""
    level: list[Any] = [root]
    for _ in range(DEPTH_MAX):
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise PydanticCustomError("attributes_too_deep", "Attributes may nest {most} levels", {"most": DEPTH_MAX})


def _children(value: Any) -> Iterator[Any]:
    """Check a container's members and return those that are containers themselves."""
    members = value
    if isinstance(value, dict):
        for name in value:
            _check_text(name)
        members = value.values()
    for member in members:
        if isinstance(member, str):
            _check_text(member)
        elif isinstance(member, float):
            if not math.isfinite(member):
                raise PydanticCustomError("number_not_finite", "Numbers must be finite")
        elif isinstance(member, int):  # bool is one of them, and within bounds
            if not -_INT8_MAX <= member <= _INT8_MAX:
                raise PydanticCustomError("number_too_large", "Whole numbers must fit into 64 bits; send text instead")
        elif member is not None:
            yield member


def _check_text(text: str) -> None:
    if "\0" in text:
        raise PydanticCustomError("nul_in_text", "Text must not contain the NUL character")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("half_a_character", "Text must not contain half of a surrogate pair")
