"""The names under which callers are counted: nothing personal in them, and no two callers under one.

Each part of what identifies a caller is preceded by its length, so that "a:b" + "c" and "a" + "b:c" differ.
"""

from __future__ import annotations

from hashlib import blake2b

from b1.limiter.policy import Policy, Scope

_PREFIXES = {"window": "limit", "bucket": "gcra", "lease": "lease"}


def charge_key(
    policy: Policy, *, address: str, actor: str | None, organization: str | None, custom: str | None = None
) -> str:
    """Return ``limit:<counter>:<digest>`` (``gcra:``, ``lease:``) for one policy and one caller.

    Args:
        address: an `address_key`, so that a whole IPv6 network is one caller.
        actor: without one, the caller is counted by address whatever the scope.
        organization: without one, an organisation's policy counts the actor.
        custom: a text that is counted instead of all of these.
    """
    parts = _identity(policy.scope, address, actor, organization) if custom is None else ("custom", custom)
    digest = _digest(parts)
    return f"{_PREFIXES[policy.kind]}:{policy.counter or policy.name}:{digest}"


def is_by_address(policy: Policy, actor: str | None) -> bool:
    """Say whether the policy counts this caller by its address alone."""
    return policy.scope == "address" or actor is None


def offender_key(*, address: str, actor: str | None) -> str:
    """Return the name under which offences are counted: of the actor, or of the address of one that nobody knows."""
    kind, text = ("address", address) if actor is None else ("actor", actor)
    return f"penalty:{kind}:{_digest((text,))}"


def _digest(parts: tuple[str, ...]) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.hexdigest()


def _identity(scope: Scope, address: str, actor: str | None, organization: str | None) -> tuple[str, ...]:
    if scope == "address" or actor is None:
        return "address", address
    if scope == "actor+address":
        return "actor+address", actor, address
    if scope in ("actor", "custom") or organization is None:
        return "actor", actor
    if scope == "organization":
        return "organization", organization
    return "actor+organization", actor, organization
