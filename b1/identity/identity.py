"""From a bearer token to a `Principal`, through a five-minute cache that holds no token, only digests.

The application's resolver is asked once per token and organisation; what it answers is kept until the token expires,
five minutes pass, or `forget` is called after a change of membership.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from b1.clock import Clock
from b1.identity.tokens import InvalidToken
from b1.types import Principal, TaggedMap

PRINCIPAL_HELD_BYTES = 600
_NEAR = 512


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a verified token says, for the application's resolver.

    Attributes:
        subject: the token's ``sub``.
        claims: all of the token's claims; verified.
        organization: the ``X-Organization-Id`` header as sent, or None.
    """

    subject: str
    claims: dict[str, Any] = field(repr=False)
    organization: str | None = None


Resolver = Callable[[Credentials], Awaitable[Principal]]


async def principal_from_claims(credentials: Credentials) -> Principal:
    """Resolve without an application: actor, organisation, role and tier as the token says."""
    claims = credentials.claims
    organization = claims.get("org")
    return Principal(
        actor=credentials.subject,
        organization=None if organization is None else str(organization),
        role=str(claims.get("role", "MEMBER")),
        tier=str(claims.get("tier", "free")),
    )


class Identity:
    """Establishes principals.

    Args:
        verify: checks a token and returns its claims.
        resolve: the application's look-up.
        ttl_s: how long a resolved principal is believed, in seconds.
        invalidate: tells whoever keeps the versions of `l1` that a tag has changed; None: `l1` keeps them itself.
    """

    def __init__(
        self,
        verify: Callable[[str], dict[str, Any] | Awaitable[dict[str, Any]]],
        resolve: Resolver,
        l1: TaggedMap,
        clock: Clock,
        *,
        ttl_s: float,
        cached: bool = True,
        invalidate: Callable[[Iterable[str]], object] | None = None,
    ) -> None:
        self._verify = verify
        self._resolve = resolve
        self._l1 = l1
        self._clock = clock
        self._ttl_s = ttl_s
        self._cached = cached
        self._invalidate = invalidate or l1.invalidate
        self.hits = 0
        self.misses = 0
        # Who called last, with `l1.changes` then and the end of its time there: a look at the map costs thrice as much.
        self._near: dict[str, tuple[Principal, int, float]] = {}

    def __repr__(self) -> str:
        return f"<Identity hits={self.hits} misses={self.misses}>"

    async def authenticate(self, authorization: bytes, organization: bytes | None) -> Principal:
        """Return who sent these headers.

        Raises:
            Unauthenticated: the token is not valid.
            Forbidden: the resolver says that this actor may not act in that organisation.
        """
        key = self.key_of(authorization, organization)
        if self._cached:
            principal = self.known_as(key)
            if principal is not None:
                self.hits += 1
                return principal
        self.misses += 1
        return await self._look_up(key, authorization, organization)

    def key_of(self, authorization: bytes, organization: bytes | None) -> str:
        """Return the name under which whoever sends these headers is known, which tells nobody what they are."""
        digest = hashlib.blake2b(authorization, digest_size=24)
        if organization is not None:
            digest.update(b"\0")
            digest.update(organization)
        return "identity:" + digest.hexdigest()

    def known(self, authorization: bytes, organization: bytes | None) -> Principal | None:
        """Return who sent these headers if that is known already; nobody is looked up, and nothing is counted."""
        return self.known_as(self.key_of(authorization, organization))

    def known_as(self, key: str) -> Principal | None:
        """Return who has this name (`key_of`) if that is known already; nobody is looked up, and nothing is counted."""
        near, l1 = self._near.get(key), self._l1
        if near is not None:
            principal, changes, until_s = near
            if changes == l1.changes and self._clock.monotonic() < until_s:
                return principal
        changes = l1.changes
        entry = l1.get(key) if self._cached else None
        if entry is None:
            self._near.pop(key, None)
            return None
        if len(self._near) >= _NEAR:
            self._near.clear()
        principal = cast("Principal", entry.value)
        self._near[key] = (principal, changes, entry.expires_s)
        return principal

    def forget(self, actor: str) -> None:
        """Look the actor up again at the next request."""
        self._invalidate((_tag(actor),))

    async def _look_up(self, key: str, authorization: bytes, organization: bytes | None) -> Principal:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token.isascii():
            raise InvalidToken
        checked = self._verify(token.strip().decode())
        claims = checked if isinstance(checked, dict) else await checked
        subject = str(claims["sub"])
        # The version is taken before the look-up: a change of membership during it makes the answer unstorable.
        versions = self._l1.versions_of((_tag(subject),))
        name = None if organization is None else organization.decode("latin-1")
        principal = await self._resolve(Credentials(subject, claims, name))
        if self._cached:
            ttl_s = min(self._ttl_s, float(claims["exp"]) - self._clock.wall())
            if ttl_s > 0:
                self._l1.put(key, principal, PRINCIPAL_HELD_BYTES, ttl_s=ttl_s, versions=versions)
        return principal


def _tag(actor: str) -> str:
    return f"actor:{actor}"
