"""Request heads that came before, byte for byte the same, with what was found out about them.

A client that asks again mostly sends the same bytes: parsing them, and finding their route, caller and key, gives what it
gave before. What may have changed (whether the caller is still known, what is stored, what the limits say) is not kept.
The bytes hold the caller's token, so a digest is kept instead of them, and the fields without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

from b1.types import Headers, Principal

if TYPE_CHECKING:
    from b1.asgi.express import Way

# Heads that are kept take about 2 KiB each; the oldest makes room.
_KEPT = 512
HEAD_BYTES = 1024
_SEEN = 4096
_DIGEST_BYTES = 16
_SECRETS = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


class Head:
    """A GET without a body, as it is decided.

    Attributes:
        path, key: decoded; of the stored answer.
        headers, fields: names in lower case.
        scheme, peer: of the connection on which it came.
        identity_key: under which the caller is known; empty: there is none.
        address: the caller's.
    """

    __slots__ = ("address", "fields", "headers", "identity_key", "key", "path", "peer", "principal", "scheme", "way")

    def __init__(
        self,
        way: Way,
        path: str,
        key: str,
        headers: Headers,
        fields: Mapping[bytes, bytes],
        principal: Principal | None,
        identity_key: str,
    ) -> None:
        self.way = way
        self.path = path
        self.key = key
        self.headers = headers
        self.fields = fields
        self.principal = principal
        self.identity_key = identity_key
        self.scheme = self.peer = self.address = ""

    def without_secrets(self) -> Head:
        """Return what may be kept: nothing that another could use."""
        headers = [pair for pair in self.headers if pair[0] not in _SECRETS]
        kept = Head(self.way, self.path, self.key, headers, dict(headers), self.principal, self.identity_key)
        kept.scheme, kept.peer, kept.address = self.scheme, self.peer, self.address
        return kept


class KnownHeads:
    """A bounded table of heads. One is kept from the second time on: what differs in each request pushes out nobody."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._heads)

    def __repr__(self) -> str:
        return f"KnownHeads({len(self._heads)})"

    def find(self, data: bytes) -> Head | None:
        """Return what is known of exactly these bytes."""
        return self._heads.get(blake2b(data, digest_size=_DIGEST_BYTES).digest()) if self._heads else None

    def keep(self, data: bytes, head: Head) -> None:
        """Remember that these bytes, the whole request and nothing else, were this head."""
        digest = blake2b(data, digest_size=_DIGEST_BYTES).digest()
        if digest not in self._seen:
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen.add(digest)
            return
        if len(self._heads) >= _KEPT:
            del self._heads[next(iter(self._heads))]
        self._heads[digest] = head.without_secrets()

    def forget(self, data: bytes) -> None:
        """What was known of these bytes is not so any more."""
        self._heads.pop(blake2b(data, digest_size=_DIGEST_BYTES).digest(), None)
