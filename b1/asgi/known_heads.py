"""Request heads that came before, byte for byte the same, with what was found out about them.

A client that asks again mostly sends the same bytes: parsing them, and finding their route, caller and key, gives what it
gave before. What may have changed (whether the caller is still known, what is stored, what the limits say) is not kept.
The bytes hold the caller's token, so a digest is kept instead of them, and the fields without it.

Behind a front end that writes something new into each request (App Service's does: ``X-ARR-LOG-ID``) no head ever comes
again. Then looking is given up for a while, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

from b1.types import Headers, Principal

if TYPE_CHECKING:
    from b1.asgi.express import Way

# A head that is kept takes about 2 KiB, at most 10; the oldest makes room.
_KEPT = 512
HEAD_BYTES = 1024
# What a field costs is its objects, however short it is: 200 of them fit into a head, and would be 30 KiB.
_FIELDS = 32
_SEEN = 4096
_DIGEST_BYTES = 16
# After so many heads in a row that nobody had sent before, so many requests are not looked at.
_HOPELESS = 512
_REST = 8192
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
        self._unseen = 0  # heads in a row
        self._rest = 0  # requests that are not looked at

    def __len__(self) -> int:
        return len(self._heads)

    def __repr__(self) -> str:
        return f"KnownHeads({len(self._heads)})"

    def find(self, data: bytes) -> Head | None:
        """Return what is known of exactly these bytes."""
        if self._rest:
            self._rest -= 1
            return None
        if not self._heads or len(data) > HEAD_BYTES:
            return None
        head = self._heads.get(blake2b(data, digest_size=_DIGEST_BYTES).digest())
        if head is not None:
            self._unseen = 0
        return head

    def keep(self, data: bytes, head: Head) -> None:
        """Remember that these bytes, the whole request and nothing else, were this head; not of one that is too large."""
        if self._rest or len(data) > HEAD_BYTES or len(head.headers) > _FIELDS:
            return
        digest = blake2b(data, digest_size=_DIGEST_BYTES).digest()
        if digest not in self._seen:
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen.add(digest)
            self._unseen += 1
            if self._unseen >= _HOPELESS:
                self._unseen, self._rest = 0, _REST
            return
        if len(self._heads) >= _KEPT and digest not in self._heads:
            del self._heads[next(iter(self._heads))]
        self._heads[digest] = head.without_secrets()

    def forget(self, data: bytes) -> None:
        """What was known of these bytes is not so any more."""
        self._heads.pop(blake2b(data, digest_size=_DIGEST_BYTES).digest(), None)
