"""Entities over HTTP: one gateway that takes an operation, and the same by method and path.

The gateway is charged by the operation its body names, so b1 reads that body (at most 64 KiB) before it decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from app.answers import json_answer, page, ready_answer
from app.caching import ENTITIES, ENTITY, TTL_S
from app.entities import service
from app.entities.models import Entity, EntityDeleted, EntityPage, EntityReplacement, EntityRequest
from app.fields import PAGE_DEFAULT, CanonicalId, Cursor, EntityType, PageSize, PathId
from app.openapi import CHANGING_PROBLEMS, READING_PROBLEMS
from app.profile import b1
from app.tenant import TenantRoute, tenant

BODY_MAX_BYTES = 64 * 1024
_LIMITS_BY_OPERATION = {
    "CREATE": ("entities", "write"),
    "UPDATE": ("entities", "write"),
    "DELETE": ("entities", "delete"),
}

router = APIRouter(prefix="/v1/entities", tags=["entities"], route_class=TenantRoute)
# The path stands for the entity in tags, so an entity has one path.
EntityId = Annotated[CanonicalId, Path(description="The entity's id.")]


def limits_of_operation(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the policies of a gateway request; what is not a change counts as a read."""
    operation = body.get("operation")
    return _LIMITS_BY_OPERATION.get(operation, ("entities",)) if isinstance(operation, str) else ("entities",)


def is_creation(body: Mapping[str, Any]) -> bool:
    """Guard a creation without a key against being submitted twice within seconds."""
    return body.get("operation") == "CREATE"


def limits_of_change(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the policies of a PUT; asking by body bounds that body as the gateway's is."""
    return ("entities", "write")


@router.post(
    "",
    response_model=Entity | EntityPage | EntityDeleted,
    responses={201: {"model": Entity, "description": "Created"}, **CHANGING_PROBLEMS},
)
@b1.limit_by(limits_of_operation, "entities", body_limit_bytes=BODY_MAX_BYTES)
@b1.idempotent(auto_key=is_creation)
async def operate(request: EntityRequest) -> Response:
    """READ (one by `id`, else a page), CREATE (answers 201), UPDATE (merges attributes) or DELETE an entity."""
    who, data = tenant(), request.entity_data
    if request.operation == "CREATE":
        return json_answer(await service.create(who, data), 201)
    if data.id is None:
        found = await service.newest(who, data.entity_type, data.text, before=request.cursor, limit=request.limit)
        return json_answer(page(found, request.limit))
    if request.operation == "UPDATE":
        return json_answer(await service.update(who, data.id, data))
    if request.operation == "DELETE":
        await service.delete(who, data.id, entity_type=data.entity_type, version=data.version)
        return json_answer({"id": data.id, "deleted": True})
    return ready_answer(await service.read(who, data.id, data.entity_type))


@router.get("", response_model=EntityPage, responses=READING_PROBLEMS)
@b1.limit("entities")
@b1.cached(ttl_s=TTL_S, vary="organization", tags=(ENTITIES,), query=("entity_type", "limit", "cursor"))
async def list_entities(
    entity_type: Annotated[EntityType | None, Query(description="Only entities of this type.")] = None,
    limit: PageSize = PAGE_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    return json_answer(page(await service.newest(tenant(), entity_type, before=cursor, limit=limit), limit))


@router.get("/{id}", response_model=Entity, responses=READING_PROBLEMS)
@b1.limit("entities")
@b1.cached(ttl_s=TTL_S, vary="organization", tags=(ENTITY,), query=())
async def get_entity(id: EntityId) -> Response:
    return json_answer(await service.get(tenant(), id))


@router.put("/{id}", response_model=Entity, responses=CHANGING_PROBLEMS)
@b1.limit_by(limits_of_change, "entities", "write", body_limit_bytes=BODY_MAX_BYTES)
async def replace_entity(id: EntityId, replacement: EntityReplacement) -> Response:
    """Replace all attributes; the type never changes."""
    return json_answer(await service.replace(tenant(), id, replacement))


@router.delete("/{id}", status_code=204, responses=CHANGING_PROBLEMS)
@b1.limit("entities", "delete")
async def delete_entity(
    id: EntityId, version: Annotated[PathId | None, Query(description="Delete only this version.")] = None
) -> Response:
    await service.delete(tenant(), id, version=version)
    return Response(status_code=204)
