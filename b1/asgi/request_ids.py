"""A request's id: the caller's where it is well-formed, else 16 random bytes; text that needs no escaping anywhere."""

from __future__ import annotations

import os
import re

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{8,64}")
_LENGTH = 32
_AT_ONCE = 256


class RequestIds:
    """Makes ids. The kernel is asked for many at a time: asking costs more than all the rest."""

    def __init__(self) -> None:
        self._pool = ""
        self._at = 0

    def __repr__(self) -> str:
        return f"RequestIds({(len(self._pool) - self._at) // _LENGTH} left)"

    def of(self, sent: bytes | None) -> str:
        """Return the id of a request that came with this one, or with none."""
        if sent is not None and _REQUEST_ID.fullmatch(sent):
            return sent.decode()
        at = self._at
        if at >= len(self._pool):
            self._pool, at = os.urandom(_LENGTH // 2 * _AT_ONCE).hex(), 0
        self._at = at + _LENGTH
        return self._pool[at : at + _LENGTH]
