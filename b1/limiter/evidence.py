"""What a client's headers look like, as further evidence against an address that offends.

Headers are the client's own to choose, so a likeness alone refuses nobody: it only makes the offences of an address count
twice while others like it, from the same neighbourhood, are shut out.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from ipaddress import ip_address

_FIELDS = (b"user-agent", b"accept", b"accept-language", b"accept-encoding")
_LIMIT = 512
STRIKES = 2


class Evidence:
    """Likenesses of callers that were shut out lately; bounded, the oldest goes first."""

    def __init__(self) -> None:
        self.until_ms: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.until_ms)

    def __repr__(self) -> str:
        return f"Evidence({len(self.until_ms)})"

    def note(self, address: str, fields: Mapping[bytes, bytes], until_ms: int) -> None:
        """Somebody who looks like this is shut out until then."""
        likeness = _likeness(address, fields)
        if likeness not in self.until_ms and len(self.until_ms) >= _LIMIT:
            del self.until_ms[next(iter(self.until_ms))]
        self.until_ms[likeness] = max(until_ms, self.until_ms.get(likeness, 0))

    def strikes(self, address: str, fields: Mapping[bytes, bytes], now_ms: int) -> int:
        """Return how much an offence of this caller counts."""
        if not self.until_ms:
            return 1
        return STRIKES if self.until_ms.get(_likeness(address, fields), 0) > now_ms else 1


def _likeness(address: str, fields: Mapping[bytes, bytes]) -> bytes:
    """Return a digest of neighbourhood (IPv4 /24, IPv6 /48) and headers."""
    try:
        number = ip_address(address)
        near = number.packed[:3] if number.version == 4 else number.packed[:6]
    except ValueError:
        near = b""
    digest = blake2b(near, digest_size=8)
    for name in _FIELDS:
        digest.update(b"\0" + fields.get(name, b"\1"))
    return digest.digest()
