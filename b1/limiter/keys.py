"""The names under which callers are counted: nothing personal in them, and no two callers under one.

Each part of what identifies a caller is preceded by its length, so that "a:b" + "c" and "a" + "b:c" differ. What a name
ends with says who is counted and not by which policy: policies of one scope share that work.
"""

from __future__ import annotations

from hashlib import blake2b

from b1.limiter.policy import Policy, Scope

_PREFIXES = {"window": "limit", "bucket": "gcra", "lease": "lease"}
Identity = tuple[str, ...]


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
    identity = identity_of(policy.scope, address, actor, organization) if custom is None else ("custom", custom)
    return prefix_of(policy) + digest_of(identity)


def prefix_of(policy: Policy) -> str:
    """Return what the keys of a policy begin with."""
    return f"{_PREFIXES[policy.kind]}:{policy.counter or policy.name}:"


def identity_of(scope: Scope, address: str, actor: str | None, organization: str | None) -> Identity:
    """Return what is counted together under a scope."""
    if scope == "address" or actor is None:
        return "address", address
    if scope == "actor+address":
        return "actor+address", actor, address
    if scope in ("actor", "custom") or organization is None:
        return "actor", actor
    if scope == "organization":
        return "organization", organization
    return "actor+organization", actor, organization


def is_by_address(policy: Policy, actor: str | None) -> bool:
    """Say whether the policy counts this caller by its address alone."""
    return policy.scope == "address" or actor is None


def offender_key(*, address: str, actor: str | None) -> str:
    """Return the name under which offences are counted: of the actor, or of the address of one that nobody knows."""
    kind, text = ("address", address) if actor is None else ("actor", actor)
    return f"penalty:{kind}:{digest_of((text,))}"


def digest_of(parts: Identity) -> str:
    """Return 32 characters that stand for who is counted."""
    data = b""
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        data += len(encoded).to_bytes(4, "big") + encoded
    return blake2b(data, digest_size=16).hexdigest()
