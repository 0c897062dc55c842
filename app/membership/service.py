"""From a verified token to a principal.

Nothing here caches: b1 remembers a principal for five minutes by itself, and a second cache below it would make a
withdrawn membership live for ten.
"""

from __future__ import annotations

from typing import Any

from app.errors import OrganizationForbidden
from app.fields import INT8_MAX
from app.membership import queries
from app.sql import Executor
from b1 import Credentials, Principal, Unauthenticated


def number(text: str) -> int | None:
    """Read an id as it stands in a token or a header; None for everything that cannot be one."""
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        return None
    value = int(text)
    return value if 1 <= value <= INT8_MAX else None


async def membership_of(db: Executor, subject: str) -> dict[str, Any]:
    """Return the actor and all organisations, with role and tier in each.

    Raises:
        Unauthenticated: the token's actor does not exist (any more).
    """
    actor = number(subject)
    rows = await queries.of_actor(db, actor) if actor is not None else []
    if not rows:
        raise Unauthenticated("the token's account does not exist any more")
    first = rows[0]
    return {
        "actor": {"id": first["id"], "email": first["email"], "name": first["name"]},
        "organizations": [
            {"id": row["organization_id"], "name": row["organization_name"], "role": row["role"], "tier": row["tier"]}
            for row in rows
            if row["organization_id"] is not None
        ],
    }


async def principal_of(db: Executor, credentials: Credentials) -> Principal:
    """Return who is calling, in which organisation and as what.

    Without a named organisation the caller's only one is meant; with several, or none, the principal names none and
    the routes that need one ask for it.

    Raises:
        Unauthenticated: the token's actor does not exist (any more).
        OrganizationForbidden: the named organisation is unknown or not the caller's.
    """
    membership = await membership_of(db, credentials.subject)
    actor = str(membership["actor"]["id"])
    organizations = membership["organizations"]
    if credentials.organization is not None:
        wanted = number(credentials.organization.strip())
        organizations = [each for each in organizations if each["id"] == wanted]
        if not organizations:
            raise OrganizationForbidden
    if len(organizations) != 1:
        return Principal(actor=actor)
    [seat] = organizations
    return Principal(actor=actor, organization=str(seat["id"]), role=seat["role"], tier=seat["tier"])
