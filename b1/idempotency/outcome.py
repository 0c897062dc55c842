"""What an answer means for its key. Pure.

The question is never "was it good news" but "would the same request, sent again, be answered the same way". A 404 of the
handler would; a 401 says nothing about the handler; a 500 says that nothing is certain.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from b1.types import Headers

# Refusals that depend on the moment or on who asks, not on what was asked.
PASSING_REFUSALS = frozenset({401, 403, 407, 408, 409, 421, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """The handler's answer; `body` is None when it was streamed or too large to be kept."""

    status: int
    headers: Headers
    body: bytes | None


class Meaning(enum.Enum):
    """What becomes of the effect and of the key."""

    KEEP = "keep"  # commit the effect, remember the answer
    REFUSED = "refused"  # undo the effect, remember the answer: the same request will be refused again
    FORGET = "forget"  # undo the effect, free the key: a retry runs


def meaning(answer: Answer | None, *, storable: bool) -> Meaning:
    """Judge an answer; None means that there is none. `storable` is False for validation errors and refusals of ours."""
    if answer is None:
        return Meaning.FORGET
    if 200 <= answer.status < 400:
        return Meaning.KEEP
    deterministic = 400 <= answer.status < 500 and answer.status not in PASSING_REFUSALS
    # A refusal whose bytes are gone is not worth a record: running it again changes nothing.
    if deterministic and storable and answer.body is not None:
        return Meaning.REFUSED
    return Meaning.FORGET
