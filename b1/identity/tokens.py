"""Access tokens: JSON Web Tokens signed with HS256 (RFC 7515, RFC 7519), or verified against a provider's keys.

HS256 is thirty lines of the standard library here, because a JWT library with its cryptography costs 13.5 MiB at import
on a box of 1750; that library is loaded only when `AUTH_JWKS_URL` asks for public keys. The algorithm is ours to choose,
never the token's: a token that names any other one is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import orjson

from b1.clock import Clock
from b1.errors import Unauthenticated
from b1.settings import Secret

TOKEN_LIMIT_BYTES = 8192
LEEWAY_S = 5.0
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")


class InvalidToken(Unauthenticated):
    """The token is malformed, forged, expired or not for us; the client is not told more than that."""

    code = "INVALID_TOKEN"
    title = "The access token is not valid"


class Tokens:
    """Issues and verifies access tokens with one secret.

    Args:
        secret: read at every use through `Secret.reveal`, so that it never stands in an attribute's repr.
        issuer, audience: if given, written into tokens and demanded of them.
    """

    def __init__(self, secret: Secret, clock: Clock, *, issuer: str | None = None, audience: str | None = None) -> None:
        self._secret = secret
        self._clock = clock
        self._issuer = issuer
        self._audience = audience

    def __repr__(self) -> str:
        return f"<Tokens HS256 issuer={self._issuer!r} audience={self._audience!r}>"

    @property
    def secret(self) -> Secret:
        """What it signs with, for a successor."""
        return self._secret

    def use(self, secret: Secret) -> None:
        """Sign and verify with another secret from now on."""
        self._secret = secret

    def issue(self, subject: str, claims: Mapping[str, Any] | None = None, *, ttl_s: int) -> str:
        """Return a signed token for `subject` that is valid for `ttl_s` seconds."""
        now = int(self._clock.wall())
        payload: dict[str, Any] = {**(claims or {}), "sub": subject, "iat": now, "exp": now + ttl_s}
        if self._issuer is not None:
            payload["iss"] = self._issuer
        if self._audience is not None:
            payload["aud"] = self._audience
        signed = _HEADER + b"." + _encode(orjson.dumps(payload))
        return (signed + b"." + _encode(self._sign(signed))).decode()

    def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid token.

        Raises:
            InvalidToken: for every other token, without saying which check failed.
        """
        if len(token) > TOKEN_LIMIT_BYTES or not token.isascii() or token.count(".") != 2:
            raise InvalidToken
        signed, _, signature = token.encode().rpartition(b".")
        if not hmac.compare_digest(self._sign(signed), _decode(signature)):
            raise InvalidToken
        header, _, payload = signed.partition(b".")
        claims = _object(payload)
        if _object(header).get("alg") != "HS256":
            raise InvalidToken
        check_claims(claims, self._clock.wall(), issuer=self._issuer, audience=self._audience)
        return claims

    def _sign(self, signed: bytes) -> bytes:
        return hmac.digest(self._secret.reveal().encode(), signed, hashlib.sha256)


def check_claims(claims: Mapping[str, Any], now_s: float, *, issuer: str | None, audience: str | None) -> None:
    """Check subject, times, issuer and audience.

    Raises:
        InvalidToken: one of them does not hold; a token without an expiry is not valid.
    """
    subject, expires, not_before = claims.get("sub"), claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(subject, str) or not subject:
        raise InvalidToken
    if not _is_time(expires) or not _is_time(not_before):
        raise InvalidToken
    if expires + LEEWAY_S <= now_s or not_before - LEEWAY_S > now_s:
        raise InvalidToken
    if issuer is not None and claims.get("iss") != issuer:
        raise InvalidToken
    if audience is not None:
        named = claims.get("aud")
        if audience not in (named if isinstance(named, list) else [named]):
            raise InvalidToken


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _object(part: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(_decode(part))
    except orjson.JSONDecodeError:
        raise InvalidToken from None
    if not isinstance(value, dict):
        raise InvalidToken
    return value


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(data: bytes) -> bytes:
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise InvalidToken from None
