"""Log-ins.

An unknown account takes the same way as a wrong password, step by step: one query, one hash, one failure spent, one answer.
"""

from __future__ import annotations

from typing import Any

from app.auth import queries
from app.auth.attempts import Attempts
from app.auth.passwords import NOBODYS_HASH, Passwords
from app.caching import REFERENCE_TTL_S, membership_tag
from app.errors import InvalidLogin
from app.membership import service as membership
from app.profile import b1

TOKEN_TTL_S = 3600
passwords = Passwords()


async def log_in(email: str, password: str) -> dict[str, Any]:
    """Return an access token, and where it may be used.

    Raises:
        RateLimited: too many log-ins have failed for this account, from this address, or both.
        Overloaded: too many log-ins are waiting for their turn.
        InvalidLogin: no such account, or not its password.
    """
    attempts = Attempts(email)
    account = await queries.account(b1.db, email, attempts.address_digest)
    is_known = account is not None and account["address_is_known"]
    # Looked at twice: here so that a flood of guesses never fills the queue, and in the turn because turns are taken
    # one by one, which makes the count exact however many guesses arrive at once.
    await attempts.check(address_is_known=is_known)
    async with passwords.turn():
        await attempts.check(address_is_known=is_known)
        password_hash = NOBODYS_HASH if account is None else account["password_hash"]
        if not await passwords.match(password_hash, password) or account is None:
            await attempts.spend(address_is_known=is_known)
            raise InvalidLogin
    actor: int = account["id"]
    await queries.remember_address(b1.db, actor, attempts.address_digest)
    return {
        "accessToken": b1.tokens.issue(str(actor), ttl_s=TOKEN_TTL_S),
        "tokenType": "Bearer",
        "expiresIn": TOKEN_TTL_S,
        **await membership.membership_of(b1.db, str(actor)),
    }


async def resolve_membership(actor: str) -> dict[str, Any]:
    """Return the actor and all organisations; looked up once in five minutes per actor."""
    return await b1.cache.get_or_load(
        f"membership:{actor}",
        lambda: membership.membership_of(b1.db, actor),
        ttl_s=REFERENCE_TTL_S,
        tags=(membership_tag(actor),),
    )


async def membership_from_source(key: str, organization: str | None) -> dict[str, Any]:
    """Return what `resolve_membership` should have cached under this key, for the coherency check."""
    return await membership.membership_of(b1.db, key.partition(":")[2])
