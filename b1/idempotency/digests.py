"""One way to hash several parts: each behind its length, so that ("ab", "c") and ("a", "bc") differ. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_LENGTH_BYTES = 8
_SHORT = tuple(length.to_bytes(_LENGTH_BYTES, "big") for length in range(256))


def digest_of(parts: Iterable[bytes]) -> bytes:
    """Return the SHA-256 of the parts, in their order."""
    framed: list[bytes] = []
    for part in parts:
        length = len(part)
        framed.append(_SHORT[length] if length < len(_SHORT) else length.to_bytes(_LENGTH_BYTES, "big"))
        framed.append(part)
    return hashlib.sha256(b"".join(framed)).digest()  # one call: each costs more than the few bytes of a part
