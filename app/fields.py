"""Field types that several domains share, and what Postgres would otherwise answer with an error.

JSON allows what Postgres cannot store: NUL in text, numbers without end. Both are refused here, by name, with a 422.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

INT8_MAX = 2**63 - 1
PAGE_DEFAULT = 50
PAGE_MAX = 200
_ID = re.compile(r"[1-9][0-9]*")


def without_nul(text: str) -> str:
    """Return the text; Postgres stores every character but NUL."""
    if "\0" in text:
        raise PydanticCustomError("nul_in_text", "Text must not contain the NUL character")
    return text


def written_once(given: object) -> object:
    """Return an id's text as it is; "007", "+7" and " 7 " would be further names of what "7" names."""
    if isinstance(given, str) and not _ID.fullmatch(given):
        raise PydanticCustomError("id_not_canonical", "An id is written in digits, without sign or leading zeros")
    return given


Id = Annotated[int, Field(strict=True, ge=1, le=INT8_MAX)]
# Path and query values arrive as text, so strictness would refuse all of them.
PathId = Annotated[int, Field(ge=1, le=INT8_MAX)]
# Of what is cached under its path.
CanonicalId = Annotated[PathId, BeforeValidator(written_once)]
Label = Annotated[
    str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True), AfterValidator(without_nul)
]
# The pattern meets the text before it is put into upper case.
EntityType = Annotated[
    str, StringConstraints(strip_whitespace=True, to_upper=True, pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
]
PageSize = Annotated[int, Field(ge=1, le=PAGE_MAX, description="How many items to return at most.")]
Cursor = Annotated[
    int | None, Field(ge=1, le=INT8_MAX, description="`nextCursor` of the page before; omit it for the newest items.")
]
