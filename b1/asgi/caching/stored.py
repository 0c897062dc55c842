"""A stored answer: ready to send, in the identity and in the encodings that were asked for, each with its own ETag.

The bodies lie one behind the other in one byte string, which the in-process cache keeps in its segments; this object is
what stands beside it. Headers that many answers share are one object in memory, so an answer costs its ETags and lengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from b1.asgi.caching.compression import IDENTITY
from b1.asgi.caching.conditional import is_tag
from b1.asgi.caching.directives import Fields, date_of
from b1.types import Headers

Pair = tuple[bytes, bytes]

# Of one request or one connection, or ours to say.
NEVER_STORED = frozenset(
    {
        b"set-cookie", b"x-request-id", b"date", b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade",
        b"transfer-encoding", b"trailer", b"proxy-authenticate", b"proxy-authentication-info", b"server-timing",
        b"age", b"cache-status", b"content-length", b"etag", b"vary",
    }
)  # fmt: skip
# What a 304 repeats of the 200 (RFC 9110 §15.4.5); the tags are for caches in between.
_IN_NOT_MODIFIED = frozenset({b"cache-control", b"content-location", b"expires", b"etag", b"vary", b"last-modified"})
_SHARED_PAIRS = 4096
_SHARED_VALUE_BYTES = 128
# Measured: the object with its dictionary of variants and times; and per variant the object, two lists, ETag and length.
ANSWER_BYTES, VARIANT_BYTES = 400, 700


class Variant:
    """One encoding of the body. `start` and `end`: where it lies in the bytes of the answer."""

    __slots__ = ("_lines", "encoding", "end", "etag", "head", "not_modified", "start")

    def __init__(
        self, encoding: bytes, etag: bytes, head: Headers, not_modified: Headers, start: int, end: int
    ) -> None:
        self.encoding = encoding
        self.etag = etag
        self.head = head
        self.not_modified = not_modified
        self.start = start
        self.end = end
        self._lines: bytes | None = None

    @property
    def lines(self) -> bytes:
        """The fields of `head` as they are written; made when first asked for."""
        if self._lines is None:
            self._lines = b"".join(b"%b: %b\r\n" % pair for pair in self.head)
        return self._lines


class StoredAnswer:
    """Everything of an answer but its bytes.

    Attributes:
        common: the headers that all variants have.
        made_s: when the handler made it, less the age that it came with; on the monotonic clock, as the others.
        fresh_until_s: it may be served without a question.
        stale_until_s: it may be served while it is refreshed.
        error_until_s: it may be served when the handler fails.
        told: the Cache-Control whose max-age depends on the age; None where it stands in `common`.
        client_ttl_s: what that max-age adds to the age.
        modified_s: what Last-Modified says, since 1970.
        is_compressible: more variants may be made of it.
        vector: the versions at the shared store that it was made from; None without one.
    """

    __slots__ = (
        "client_ttl_s", "common", "error_until_s", "fresh_until_s", "identity", "is_compressible", "is_packing", "made_s",
        "modified_s", "stale_until_s", "status", "told", "variants", "vector",
    )  # fmt: skip

    identity: Variant

    def __init__(self, status: int, common: Headers, *, is_compressible: bool) -> None:
        self.status = status
        self.common = common
        self.is_compressible = is_compressible
        self.is_packing = False
        self.variants: dict[bytes, Variant] = {}
        self.made_s = self.fresh_until_s = self.stale_until_s = self.error_until_s = 0.0
        self.told: bytes | None = None
        self.client_ttl_s = 0
        self.modified_s: float | None = None
        self.vector: bytes | None = None

    def __repr__(self) -> str:
        names = ", ".join(name.decode() for name in self.variants)
        return f"<StoredAnswer {self.status} {names} bytes={max(one.end for one in self.variants.values())}>"

    def copy(self) -> StoredAnswer:
        """Return another one with the same variants, to which more may be added."""
        other = StoredAnswer(self.status, self.common, is_compressible=self.is_compressible)
        for name in ("made_s", "fresh_until_s", "stale_until_s", "error_until_s", "told", "client_ttl_s", "modified_s",
                     "vector", "identity"):  # fmt: skip
            setattr(other, name, getattr(self, name))
        other.variants = dict(self.variants)
        return other

    def add(self, encoding: bytes, etag: bytes, length: int) -> None:
        """Add a variant whose body comes behind those that are there."""
        start = max((one.end for one in self.variants.values()), default=0)
        variant = _variant(self.common, encoding, etag, start, start + length, self.status)
        self.variants[encoding] = variant
        if encoding == IDENTITY:
            self.identity = variant

    def choose(self, preferences: Iterable[bytes]) -> Variant:
        """Return the variant for a client that prefers these encodings."""
        variants = self.variants
        for encoding in preferences:
            if encoding in variants:
                return variants[encoding]
        return self.identity

    def held_bytes(self) -> int:
        """Return what it costs beside the bytes of its bodies, accounted."""
        unshared = sum(len(value) + 90 for _, value in self.common if len(value) > _SHARED_VALUE_BYTES)
        return ANSWER_BYTES + VARIANT_BYTES * len(self.variants) + 8 * len(self.common) + unshared


class SharedPairs:
    """Header pairs that are one object for all answers that have them; bounded, and forgotten together."""

    def __init__(self) -> None:
        self._pairs: dict[Pair, Pair] = {}

    def __repr__(self) -> str:
        return f"<SharedPairs {len(self._pairs)}>"

    def of(self, name: bytes, value: bytes) -> Pair:
        """Return the pair."""
        pair = (name, value)
        known = self._pairs.get(pair)
        if known is not None:
            return known
        if len(value) <= _SHARED_VALUE_BYTES:
            if len(self._pairs) >= _SHARED_PAIRS:
                self._pairs.clear()
            self._pairs[pair] = pair
        return pair


def etag_of(fields: Fields, body: bytes) -> bytes:
    """Return the handler's own ETag, or one made of the representation: type, language and bytes; the same everywhere."""
    given = fields.get(b"etag", ())
    if len(given) == 1 and is_tag(given[0]):
        return given[0]
    digest = blake2b(body, digest_size=16)
    for name in (b"content-type", b"content-language", b"content-encoding"):
        digest.update(b"\0" + b",".join(fields.get(name, ())))
    return b'"' + digest.hexdigest().encode() + b'"'


def modified_of(fields: Fields) -> float | None:
    """Return when the handler says that the answer was last changed."""
    given = fields.get(b"last-modified", ())
    return date_of(given[0]) if len(given) == 1 else None


def encoded_etag(etag: bytes, encoding: bytes) -> bytes:
    """Return the ETag of an encoding: other bytes, another strong tag."""
    return etag if encoding == IDENTITY else etag[:-1] + b"-" + encoding + b'"'


def _variant(common: Headers, encoding: bytes, etag: bytes, start: int, end: int, status: int) -> Variant:
    head = list(common)
    if encoding != IDENTITY:
        head.append((b"content-encoding", encoding))
    tag = (b"etag", etag)
    head += (tag, (b"content-length", b"%d" % (end - start)))
    repeated = [pair for pair in common if pair[0] in _IN_NOT_MODIFIED]
    return Variant(encoding, etag, head, [*repeated, tag], start, end)
