"""What can be done with an entity. Every change records who made it."""

from __future__ import annotations

from typing import Any

import orjson

from app.answers import as_json
from app.caching import ENTITY_CHANGED, ENTITY_CREATED, TTL_S, entity_tag
from app.entities import queries
from app.entities.models import EntityData, EntityReplacement
from app.errors import DeleteForbidden, EntityNotFound, EntityTooLarge, VersionConflict
from app.profile import b1
from app.sql import Executor
from app.tenant import MAY_DELETE_ANYTHING, Tenant

_COLUMNS = (
    "id",
    "entity_type",
    "attributes",
    "status",
    "version",
    "created_by",
    "created_at",
    "updated_by",
    "updated_at",
)


async def get(who: Tenant, entity: int, entity_type: str | None = None) -> dict[str, Any]:
    """Return one entity.

    Raises:
        EntityNotFound: the organisation has no such entity, or it is of another type.
    """
    return await _get(who.organization, entity, entity_type)


async def read(who: Tenant, entity: int, entity_type: str) -> bytes:
    """Return one entity as JSON, from the cache if it is there; raises as `get`.

    For the gateway, whose answers the response cache cannot store: what it asks for is in a body.
    """

    return await b1.cache.get_or_load(
        f"entity:{entity}:{entity_type}",
        lambda: _load(who.organization, entity, entity_type),
        ttl_s=TTL_S,
        tags=(entity_tag(who.organization, entity),),
        organization=str(who.organization),
    )


async def from_source(key: str, organization: str | None) -> bytes | None:
    """Return what `read` should have cached under this key, for the coherency check; None: it does not exist any more."""
    _, entity, entity_type = key.split(":")
    try:
        return await _load(int(organization or 0), int(entity), entity_type)
    except EntityNotFound:
        return None


async def newest(
    who: Tenant, entity_type: str | None, attributes: str = "{}", *, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """Return the newest entities, one more than `limit` if there are more.

    `attributes` (JSON text) narrows a type to entities that have all of them.
    """
    if entity_type is None:
        rows = await queries.newest(b1.db, who.organization, before=before, limit=limit + 1)
    else:
        rows = await queries.newest_of_type(
            b1.db, who.organization, entity_type, attributes, before=before, limit=limit + 1
        )
    return [_entity(row) for row in rows]


async def create(who: Tenant, data: EntityData) -> dict[str, Any]:
    write = b1.changing(b1.db, ENTITY_CREATED, organization=who.organization)
    row = await queries.create(write, who.organization, who.actor, data.entity_type, data.text, data.status or "ACTIVE")
    return _entity(row)


async def update(who: Tenant, entity: int, data: EntityData) -> dict[str, Any]:
    """Merge attributes into an entity; raises as `_change` does."""
    return await _change(who, entity, data, merge=True)


async def replace(who: Tenant, entity: int, data: EntityReplacement) -> dict[str, Any]:
    """Replace an entity's attributes; raises as `_change` does."""
    return await _change(who, entity, data, merge=False)


async def delete(who: Tenant, entity: int, *, entity_type: str | None = None, version: int | None = None) -> None:
    """Delete an entity; the row stays with the stamp of who did it.

    Raises:
        EntityNotFound: the organisation has no such entity, or it is of another type.
        VersionConflict: somebody changed it since the caller read it.
        DeleteForbidden: a MEMBER may delete only what they created.
    """
    found = await queries.delete(
        _changing(who, entity),
        who.organization,
        who.actor,
        entity,
        entity_type,
        version=version,
        any_creator=who.role in MAY_DELETE_ANYTHING,
    )
    if found is None:
        raise EntityNotFound
    if found["id"] is not None:
        return
    _check_version(found, version)
    raise DeleteForbidden


async def _change(who: Tenant, entity: int, data: EntityData | EntityReplacement, *, merge: bool) -> dict[str, Any]:
    """Change an entity in one trip.

    Raises:
        EntityNotFound: the organisation has no such entity, or it is of another type.
        VersionConflict: somebody changed it since the caller read it.
        EntityTooLarge: what it would become is too large.
    """
    found = await queries.change(
        _changing(who, entity),
        who.organization,
        who.actor,
        entity,
        data.entity_type,
        data.text,
        merge=merge,
        status=data.status,
        version=data.version,
    )
    if found is None:
        raise EntityNotFound
    if found["id"] is not None:
        return _entity(found)
    _check_version(found, data.version)
    raise EntityTooLarge(f"the attributes would be {found['wanted_bytes']} bytes of JSON")


def _changing(who: Tenant, entity: int) -> Executor:
    """Return what runs the change of an entity and says what it makes stale, in one trip."""
    return b1.changing(b1.db, ENTITY_CHANGED, organization=who.organization, id=entity)


async def _get(organization: int, entity: int, entity_type: str | None) -> dict[str, Any]:
    row = await queries.get(b1.db, organization, entity, entity_type)
    if row is None:
        raise EntityNotFound
    return _entity(row)


async def _load(organization: int, entity: int, entity_type: str) -> bytes:
    return as_json(await _get(organization, entity, entity_type))


def _check_version(found: Any, version: int | None) -> None:
    if version is not None and found["found_version"] != version:
        raise VersionConflict(f"the entity has version {found['found_version']}, the request names {version}")


def _entity(row: Any) -> dict[str, Any]:
    """Name what an answer shows; the attributes go out as the text that Postgres sent, without being parsed."""
    entity = {name: row[name] for name in _COLUMNS}
    entity["attributes"] = orjson.Fragment(row["attributes"])
    return entity
