"""A stored answer: ready to send, in the identity and in the encodings that were asked for, each with its own ETag.

The bodies lie one behind the other in one byte string, which the in-process cache keeps in its segments; this object is
what stands beside it. Headers that many answers share are one object in memory, so an answer costs its ETags and lengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from b1.asgi.caching.compression import IDENTITY, ZSTD
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
_SHARED_PAIRS, _SHARED_COMMONS = 4096, 1024
_SHARED_VALUE_BYTES = 128
# Measured: the object with its times and one variant with its ETag and length; each further variant with a dictionary for
# them; a `Frame`; headers that no other answer has, and each pair of them.
ANSWER_BYTES, VARIANT_BYTES, FRAME_BYTES = 440, 400, 200
_COMMON_BYTES, _PAIR_BYTES = 300, 90


class Common:
    """Headers that all variants of an answer have, and mostly all answers of a route: then this is one object for them.

    Attributes:
        not_modified: those of them that a 304 repeats.
        lines: as they are written.
    """

    __slots__ = ("headers", "is_shared", "lines", "not_modified")

    def __init__(self, headers: Headers, *, is_shared: bool = False) -> None:
        self.headers = headers
        self.is_shared = is_shared
        self.not_modified = [pair for pair in headers if pair[0] in _IN_NOT_MODIFIED]
        self.lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])

    def __repr__(self) -> str:
        return f"<Common headers={len(self.headers)} is_shared={self.is_shared}>"

    def held_bytes(self) -> int:
        """Return what it is accounted at for each answer that has it."""
        if self.is_shared:
            return 0
        return _COMMON_BYTES + _PAIR_BYTES * len(self.headers) + 2 * len(self.lines)


class Variant:
    """One encoding of the body. `start` and `end`: where it lies in the bytes of the answer.

    What is sent is put together anew for each hit: that takes half a microsecond, and keeping it some hundred bytes.
    """

    __slots__ = ("_common", "encoding", "end", "etag", "start")

    def __init__(self, common: Common, encoding: bytes, etag: bytes, start: int, end: int) -> None:
        self._common = common
        self.encoding = encoding
        self.etag = etag
        self.start = start
        self.end = end

    def __repr__(self) -> str:
        return f"<Variant {self.encoding.decode()} {self.start}-{self.end}>"

    @property
    def head(self) -> Headers:
        """The fields of the answer; a new list."""
        length = (b"content-length", b"%d" % (self.end - self.start))
        if self.encoding == IDENTITY:
            return [*self._common.headers, (b"etag", self.etag), length]
        return [*self._common.headers, (b"content-encoding", self.encoding), (b"etag", self.etag), length]

    @property
    def not_modified(self) -> Headers:
        """The fields of a 304; a new list."""
        return [*self._common.not_modified, (b"etag", self.etag)]

    @property
    def lines(self) -> bytes:
        """The fields of `head` as they are written."""
        encoded = b"" if self.encoding == IDENTITY else b"content-encoding: %b\r\n" % self.encoding
        length = self.end - self.start
        return b"%b%betag: %b\r\ncontent-length: %d\r\n" % (self._common.lines, encoded, self.etag, length)


class Frame:
    """Where the zstd frame of a packed answer lies in its bytes; counts it for as long as the map has it."""

    __slots__ = ("_saving", "end", "start")

    def __init__(self, start: int, end: int, saving: object) -> None:
        self.start = start
        self.end = end
        self._saving = saving

    def __repr__(self) -> str:
        return f"<Frame {self.start}-{self.end}>"


class StoredAnswer:
    """Everything of an answer but its bytes.

    Attributes:
        made_s: when the handler made it, less the age that it came with; on the monotonic clock, as the others.
        fresh_until_s: it may be served without a question.
        stale_until_s: it may be served while it is refreshed.
        error_until_s: it may be served when the handler fails.
        told: the Cache-Control whose max-age depends on the age; None where it stands in `common`.
        client_ttl_s: what that max-age adds to the age.
        modified_s: what Last-Modified says, since 1970.
        identity: the variant that comes first.
        is_compressible: more variants may be made of it.
        vector: the versions at the shared store that it was made from; None without one.
        frame: set on the copy in the in-process map whose identity lies there packed.
    """

    __slots__ = (
        "_common", "_more", "client_ttl_s", "error_until_s", "frame", "fresh_until_s", "identity", "is_compressible",
        "is_packing", "made_s", "modified_s", "stale_until_s", "status", "told", "vector",
    )  # fmt: skip

    identity: Variant

    def __init__(self, status: int, common: Headers | Common, *, is_compressible: bool) -> None:
        self.status = status
        self._common = common if isinstance(common, Common) else Common(common)
        self._more: dict[bytes, Variant] | None = None
        self.is_compressible = is_compressible
        self.is_packing = False
        self.made_s = self.fresh_until_s = self.stale_until_s = self.error_until_s = 0.0
        self.told: bytes | None = None
        self.client_ttl_s = 0
        self.modified_s: float | None = None
        self.vector: bytes | None = None
        self.frame: Frame | None = None

    def __repr__(self) -> str:
        names = ", ".join(name.decode() for name in self.variants)
        return f"<StoredAnswer {self.status} {names} bytes={self.whole_bytes}>"

    @property
    def common(self) -> Headers:
        """The headers that all variants have."""
        return self._common.headers

    @property
    def variants(self) -> dict[bytes, Variant]:
        """All variants by their encoding, the identity first; a new dictionary."""
        known = getattr(self, "identity", None)
        found = {} if known is None else {IDENTITY: known}
        return found if self._more is None else {**found, **self._more}

    @property
    def whole_bytes(self) -> int:
        """Where the last variant ends, or the frame."""
        end = max(one.end for one in self.variants.values()) if self._more else self.identity.end
        return end if self.frame is None else max(end, self.frame.end)

    def copy(self) -> StoredAnswer:
        """Return another one with the same variants, to which more may be added; it is not packed."""
        other = StoredAnswer(self.status, self._common, is_compressible=self.is_compressible)
        for name in ("made_s", "fresh_until_s", "stale_until_s", "error_until_s", "told", "client_ttl_s", "modified_s",
                     "vector", "identity"):  # fmt: skip
            setattr(other, name, getattr(self, name))
        other._more = None if self._more is None else dict(self._more)
        return other

    def add(self, encoding: bytes, etag: bytes, length: int) -> None:
        """Add a variant whose body comes behind those that are there."""
        start = max((one.end for one in self.variants.values()), default=0)
        variant = Variant(self._common, encoding, etag, start, start + length)
        if encoding == IDENTITY:
            self.identity = variant
        else:
            self._more = {**(self._more or {}), encoding: variant}

    def choose(self, preferences: Iterable[bytes]) -> Variant:
        """Return the variant for a client that prefers these encodings."""
        more = self._more
        for encoding in preferences:
            if more is not None and encoding in more:
                return more[encoding]
            if encoding == ZSTD and self.frame is not None and self.is_compressible:
                etag = encoded_etag(self.identity.etag, ZSTD)
                return Variant(self._common, ZSTD, etag, self.frame.start, self.frame.end)
        return self.identity

    def held_bytes(self) -> int:
        """Return what it costs beside the bytes of its bodies, accounted."""
        more = 0 if self._more is None else VARIANT_BYTES * len(self._more)
        framed = 0 if self.frame is None else FRAME_BYTES
        own = sum(len(one) + 33 for one in (self.told, self.vector) if one is not None)
        return ANSWER_BYTES + more + framed + own + self._common.held_bytes()


class SharedPairs:
    """Header pairs that are one object for all answers that have them; bounded, and forgotten together."""

    def __init__(self) -> None:
        self._pairs: dict[Pair, Pair] = {}
        self._commons: dict[tuple[Pair, ...], Common | None] = {}

    def __repr__(self) -> str:
        return f"<SharedPairs {len(self._pairs)} commons={len(self._commons)}>"

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

    def common(self, headers: Headers) -> Common:
        """Return the headers of an answer: from the second time on that they are seen, one object for all."""
        name = tuple(headers)
        known = self._commons.get(name)
        if known is not None:
            return known
        if any(len(value) > _SHARED_VALUE_BYTES for _, value in headers):
            return Common(headers)
        if name in self._commons:
            known = self._commons[name] = Common(headers, is_shared=True)
            return known
        if len(self._commons) >= _SHARED_COMMONS:
            self._commons.clear()
        self._commons[name] = None
        return Common(headers)


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
