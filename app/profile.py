"""b1 for Pantry: the one object that routes and services share. Nothing is connected before the application starts."""

from __future__ import annotations

from app.caching import RULES
from app.limits import policies_of_undeclared
from app.membership import service as membership
from b1 import B1, Credentials, Principal


async def resolve_principal(credentials: Credentials) -> Principal:
    """Say who a verified token is; asked only when b1 does not remember."""
    return await membership.principal_of(b1.db, credentials)


b1 = B1(
    principal=resolve_principal,
    default_policies=policies_of_undeclared,
    anonymous_policies=("public",),
    rules=RULES,
)
