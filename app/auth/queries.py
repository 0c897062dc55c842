"""Log-in in SQL."""

from __future__ import annotations

from typing import Any

from app.sql import Executor

_ACCOUNT = """
    SELECT actors.id, actors.password_hash,
           EXISTS (
               SELECT FROM actor_addresses
                WHERE actor_addresses.actor_id = actors.id AND address_digest = $2
           ) AS address_is_known
      FROM actors
     WHERE actors.email = $1
"""

# One trip after each log-in. A familiar address costs a write a day, and one that stayed away for 90 days is forgotten.
_REMEMBER_ADDRESS = """
    WITH forgotten AS (
        DELETE FROM actor_addresses WHERE actor_id = $1 AND used_at < now() - interval '90 days' AND address_digest <> $2
    )
    INSERT INTO actor_addresses AS known (actor_id, address_digest) VALUES ($1, $2)
    ON CONFLICT (actor_id, address_digest) DO UPDATE SET used_at = now()
     WHERE known.used_at < now() - interval '1 day'
"""


async def account(db: Executor, email: str, address_digest: bytes) -> Any:
    """Return id, password hash and whether the account knows the address; None for no such account."""
    return await db.fetchrow(_ACCOUNT, email, address_digest)


async def remember_address(db: Executor, actor: int, address_digest: bytes) -> None:
    await db.fetchrow(_REMEMBER_ADDRESS, actor, address_digest)
