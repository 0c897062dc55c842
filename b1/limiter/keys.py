"""The names under which callers are counted: nothing personal in them, and no two callers under one.

Each part of what identifies a caller is preceded by its length, so that "a:b" + "c" and "a" + "b:c" differ.
"""

from __future__ import annotations

from hashlib import blake2b

from b1.limiter.policy import Policy, Scope


def charge_key(policy: Policy, *, address: str, actor: str | None, organization: str | None) -> str:
    """Return ``limit:<counter>:<digest>`` for one policy and one caller.

    Args:
        address: an `address_key`, so that a whole IPv6 network is one caller.
        actor: without one, the caller is counted by address whatever the scope.
        organization: without one, an organisation's policy counts the actor.
    """
    parts = _identity(policy.scope, address, actor, organization)
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return f"limit:{policy.counter or policy.name}:{digest.hexdigest()}"


def _identity(scope: Scope, address: str, actor: str | None, organization: str | None) -> tuple[str, ...]:
    if scope == "address" or actor is None:
        return "address", address
    if scope == "actor+address":
        return "actor+address", actor, address
    if scope == "actor" or organization is None:
        return "actor", actor
    if scope == "organization":
        return "organization", organization
    return "actor+organization", actor, organization
