"""Tokens of an identity provider, verified against its published keys (RFC 7517).

The only module that loads PyJWT and cryptography (13.5 MiB), and only when `AUTH_JWKS_URL` is set. Keys are fetched in
a thread with a deadline and kept; an unknown key id asks again at most every 30 s, so forged ids cause no storm.
"""

from __future__ import annotations

import asyncio
from typing import Any

from b1.clock import Clock
from b1.errors import RequestError
from b1.identity.tokens import TOKEN_LIMIT_BYTES, InvalidToken, check_claims

ALGORITHMS = ("RS256", "ES256", "PS256", "EdDSA")
FETCH_TIMEOUT_S = 3.0
REFRESH_S = 3600.0
RETRY_S = 30.0


class KeysUnavailable(RequestError):
    """The identity provider's keys cannot be fetched."""

    code, status, title = "AUTH_KEYS_UNAVAILABLE", 503, "The identity provider does not answer"
    retry_after = 5.0


class ProviderTokens:
    """Verifies tokens against the keys at `url`.

    Args:
        issuer, audience: demanded of every token; without an audience any client of the provider would be let in.
    """

    def __init__(self, url: str, clock: Clock, *, issuer: str | None, audience: str | None) -> None:
        self._url = url
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._keys: dict[str, Any] = {}
        self._fetched_s = float("-inf")
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<ProviderTokens {self._url} keys={len(self._keys)}>"

    async def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid token.

        Raises:
            InvalidToken: malformed, forged, expired, not for us, or signed with an unknown key.
            KeysUnavailable: the keys were never fetched and cannot be.
        """
        import jwt

        if len(token) > TOKEN_LIMIT_BYTES:
            raise InvalidToken
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._key(str(key_id))
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=list(ALGORITHMS), options={"verify_aud": False, "verify_exp": False}
            )
        except jwt.PyJWTError:
            raise InvalidToken from None
        check_claims(claims, self._clock.wall(), issuer=self._issuer, audience=self._audience)
        return claims

    async def _key(self, key_id: str) -> Any:
        age_s = self._clock.monotonic() - self._fetched_s
        if age_s > REFRESH_S or (key_id not in self._keys and age_s > RETRY_S):
            async with self._lock:
                if self._clock.monotonic() - self._fetched_s > RETRY_S:
                    await self._fetch()
        if key_id not in self._keys:
            raise InvalidToken
        return self._keys[key_id]

    async def _fetch(self) -> None:
        import jwt

        self._fetched_s = self._clock.monotonic()
        client = jwt.PyJWKClient(self._url, cache_keys=False, cache_jwk_set=False, timeout=FETCH_TIMEOUT_S)
        try:
            found = await asyncio.to_thread(client.get_jwk_set)
        except jwt.PyJWTError:
            if not self._keys:
                raise KeysUnavailable from None
            return  # the keys we have stay good until the provider answers again
        self._keys = {key.key_id: key.key for key in found.keys if key.key_id}
