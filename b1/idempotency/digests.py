"""One way to hash several parts: each behind its length, so that ("ab", "c") and ("a", "bc") differ. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_LENGTH_BYTES = 8


def digest_of(parts: Iterable[bytes]) -> bytes:
    """Return the SHA-256 of the parts, in their order."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(_LENGTH_BYTES, "big"))
        hasher.update(part)
    return hasher.digest()
