"""Entities in SQL. Every statement names the organisation first, so no statement can reach another tenant's row.

Changes answer what they found besides what they did, so that "not there", "another version" and "done" take one trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.sql import Executor

ATTRIBUTES_MAX_BYTES = 32 * 1024

_COLUMNS = """
    id, entity_type, attributes::text AS attributes, status, version, created_by, created_at, updated_by, updated_at
"""

_GET = f"""
    SELECT {_COLUMNS} FROM entities
     WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL AND ($3::text IS NULL OR entity_type = $3)
"""

_PAGE = f"""
    SELECT {_COLUMNS} FROM entities
     WHERE organization_id = $1 AND deleted_at IS NULL
       AND ($2::bigint IS NULL OR id < $2)
     ORDER BY id DESC LIMIT $3
"""

_PAGE_OF_TYPE = f"""
    SELECT {_COLUMNS} FROM entities
     WHERE organization_id = $1 AND deleted_at IS NULL AND entity_type = $4
       AND ($2::bigint IS NULL OR id < $2)
       AND attributes @> $5::jsonb
     ORDER BY id DESC LIMIT $3
"""

_CREATE = f"""
    INSERT INTO entities (organization_id, entity_type, attributes, status, created_by, updated_by)
    VALUES ($1, $3, $4::jsonb, $5, $2, $2)
    RETURNING {_COLUMNS}
"""

# $5 says whether the attributes are merged into the present ones or replace them.
_CHANGE = f"""
    WITH target AS MATERIALIZED (
        SELECT id AS target_id, version AS found_version,
               CASE WHEN $5 THEN attributes || $4::jsonb ELSE $4::jsonb END AS wanted
          FROM entities
         WHERE organization_id = $1 AND id = $3 AND deleted_at IS NULL AND ($7::text IS NULL OR entity_type = $7)
           FOR UPDATE
    ), changed AS (
        UPDATE entities
           SET attributes = target.wanted, status = coalesce($6, status),
               version = version + 1, updated_by = $2, updated_at = now()
          FROM target
         WHERE organization_id = $1 AND id = target_id
           AND ($8::bigint IS NULL OR found_version = $8)
           AND octet_length(wanted::text) <= {ATTRIBUTES_MAX_BYTES}
     RETURNING {_COLUMNS}
    )
    SELECT target.found_version, octet_length(target.wanted::text) AS wanted_bytes, changed.*
      FROM target LEFT JOIN changed ON true
"""

_DELETE = """
    WITH target AS MATERIALIZED (
        SELECT id AS target_id, version AS found_version, created_by AS found_creator
          FROM entities
         WHERE organization_id = $1 AND id = $3 AND deleted_at IS NULL AND ($6::text IS NULL OR entity_type = $6)
           FOR UPDATE
    ), deleted AS (
        UPDATE entities
           SET deleted_at = now(), updated_by = $2, updated_at = now(), version = version + 1
          FROM target
         WHERE organization_id = $1 AND id = target_id
           AND ($4::bigint IS NULL OR found_version = $4)
           AND ($5 OR found_creator = $2)
     RETURNING id
    )
    SELECT target.found_version, deleted.id FROM target LEFT JOIN deleted ON true
"""


async def get(db: Executor, organization: int, entity: int, entity_type: str | None) -> Any:
    return await db.fetchrow(_GET, organization, entity, entity_type)


async def newest(db: Executor, organization: int, *, before: int | None, limit: int) -> Sequence[Any]:
    return await db.fetch(_PAGE, organization, before, limit)


async def newest_of_type(
    db: Executor, organization: int, entity_type: str, attributes: str, *, before: int | None, limit: int
) -> Sequence[Any]:
    """Return entities that have all of the given attributes (JSON text)."""
    return await db.fetch(_PAGE_OF_TYPE, organization, before, limit, entity_type, attributes)


async def create(db: Executor, organization: int, actor: int, entity_type: str, attributes: str, status: str) -> Any:
    return await db.fetchrow(_CREATE, organization, actor, entity_type, attributes, status)


async def change(
    db: Executor,
    organization: int,
    actor: int,
    entity: int,
    entity_type: str | None,
    attributes: str,
    *,
    merge: bool,
    status: str | None,
    version: int | None,
) -> Any:
    """Return what was found and, with a non-null `id`, what it became; None when there is no such entity."""
    return await db.fetchrow(_CHANGE, organization, actor, entity, attributes, merge, status, entity_type, version)


async def delete(
    db: Executor,
    organization: int,
    actor: int,
    entity: int,
    entity_type: str | None,
    *,
    version: int | None,
    any_creator: bool,
) -> Any:
    """Return what was found; `id` is null when it was not deleted; None when there is no such entity."""
    return await db.fetchrow(_DELETE, organization, actor, entity, version, any_creator, entity_type)
