"""Signatures as in Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, base64, one per secret.

The timestamp is that of the attempt, so a message that is delivered late is not taken for a replayed one; the id is that
of the message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"


class Signer:
    """Signs with one secret, or with several while one replaces another.

    Args:
        secrets: ``whsec_`` and base64 each, separated by spaces.

    Raises:
        ValueError: it is no such text; the text is not shown.
    """

    __slots__ = ("_keys",)

    def __init__(self, secrets: str) -> None:
        self._keys = [_key(text) for text in secrets.replace(",", " ").split()]
        if not self._keys:
            raise _invalid()

    def __repr__(self) -> str:
        return f"<Signer secrets={len(self._keys)}>"

    def headers(self, message_id: str, body: bytes, now_s: float) -> list[tuple[str, str]]:
        """Return timestamp and signature for an attempt made at `now_s` (wall time)."""
        timestamp = str(int(now_s))
        signed = b".".join((message_id.encode(), timestamp.encode(), body))
        signatures = [f"v1,{_sign(key, signed)}" for key in self._keys]
        return [("webhook-timestamp", timestamp), ("webhook-signature", " ".join(signatures))]


def _sign(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _key(text: str) -> bytes:
    if not text.startswith(PREFIX):
        raise _invalid()
    encoded = text.removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _invalid() from None
    if not key:
        raise _invalid()
    return key


def _invalid() -> ValueError:
    return ValueError("expected whsec_ followed by base64, such as whsec_$(openssl rand -base64 32)")
