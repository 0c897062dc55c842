"""Memberships in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.sql import Executor

# One row per organisation; one row without an organisation for an actor who has none; no row for a stranger.
_OF_ACTOR = """
    SELECT actors.id, actors.email, actors.name,
           organizations.id AS organization_id, organizations.name AS organization_name, organizations.tier,
           memberships.role
      FROM actors
      LEFT JOIN memberships ON memberships.actor_id = actors.id
      LEFT JOIN organizations ON organizations.id = memberships.organization_id
     WHERE actors.id = $1
     ORDER BY organizations.id
"""


async def of_actor(db: Executor, actor: int) -> Sequence[Any]:
    return await db.fetch(_OF_ACTOR, actor)
