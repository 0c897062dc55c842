"""What a body says, digested while it arrives: JSON by its values, multipart by its parts, all else by its bytes. Pure.

At most `JSON_MOST_BYTES` of a body are held, whatever its length: a longer JSON text counts by its bytes, since to look at
its values would hold up every other request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from b1.idempotency.canonical import canonical as by_values
from b1.idempotency.multipart import MultipartDigest, boundary_of, parameters
from b1.units import KIB

if TYPE_CHECKING:
    from hashlib import _Hash

JSON_MOST_BYTES = 64 * KIB
_JSON = b"application/json"
# Equal bytes for equal values; None where bytes have to decide.
Canonical = Callable[[bytes], bytes | None]


class Payload:
    """Takes a body in pieces. The same bytes give the same parts however they were cut.

    Args:
        content_type: the request's, parameters included.
        content_encoding: the request's; a body that is encoded counts by its bytes.
        canonical_json: JSON counts by its values.
        canonical: how; of the definition by which the whole request is digested.
    """

    def __init__(
        self,
        content_type: bytes = b"",
        content_encoding: bytes = b"",
        *,
        canonical_json: bool = True,
        canonical: Canonical = by_values,
    ) -> None:
        self._canonical = canonical
        self._content_type = content_type
        self._encoding = content_encoding.strip().lower() if content_encoding else b""
        self._raw: _Hash | None = None  # most bodies are short JSON and need none
        self._form: MultipartDigest | None = None
        self._text: list[bytes] | None = None
        self._text_bytes = 0
        if content_type == _JSON and canonical_json and not self._encoding:
            self._essence = _JSON  # what nearly all requests say, and how they say it
            self._text = []
            return
        self._essence = content_type.partition(b";")[0].strip().lower()
        if self._encoding in (b"", b"identity"):
            self._encoding = b""
            self._choose(canonical_json)

    def __repr__(self) -> str:
        how = "json" if self._text is not None else "multipart" if self._form is not None else "raw"
        return f"<Payload {self._essence.decode('latin-1')} by {how}>"

    def _choose(self, canonical_json: bool) -> None:
        if self._essence == _JSON or self._essence.endswith(b"+json"):
            self._text = [] if canonical_json else None
        elif self._essence.startswith(b"multipart/"):
            boundary = boundary_of(self._content_type)
            if boundary is not None:
                self._form = MultipartDigest(boundary, is_form=self._essence == b"multipart/form-data")

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        if self._text is not None:
            self._text.append(piece)
            self._text_bytes += len(piece)
            if self._text_bytes <= JSON_MOST_BYTES:
                return
            piece, self._text = b"".join(self._text), None
        self._digest().update(piece)
        if self._form is not None:
            self._form.feed(piece)

    def parts(self) -> list[bytes]:
        """Return what the body says, once it is complete; in parts whose order counts."""
        said = [self._essence, self._encoding]
        if self._text is not None:
            text = self._text[0] if len(self._text) == 1 else b"".join(self._text)
            values = self._canonical(text)
            if values is not None:
                return [*said, b"json", values]
            self._digest().update(text)
            self._text = None
        form = self._form.parts() if self._form is not None else None
        if form is not None:
            return [*said, b"multipart", *form]
        return [*said, b"raw", self._charset(), self._digest().digest()]

    def _digest(self) -> _Hash:
        if self._raw is None:
            self._raw = hashlib.sha256()
        return self._raw

    def _charset(self) -> bytes:
        """Return what makes other characters of the same bytes."""
        for name, value in parameters(self._content_type.partition(b";")[1:]) or ():
            if name == b"charset":
                return value.lower()
        return b""
