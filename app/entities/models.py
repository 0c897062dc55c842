"""Bodies of the entity routes.

Whatever member of `entity_data` has no meaning of its own is an attribute, so a client may send
``{"entity_type": "CUSTOMER", "name": "Ann"}``; a member called `attributes` adds to them, for names that do have one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from app.entities.attributes import attributes_text
from app.fields import PAGE_DEFAULT, Cursor, EntityType, Id, PageSize

Status = Literal["ACTIVE", "INACTIVE", "ARCHIVED"]
Operation = Literal["READ", "CREATE", "UPDATE", "DELETE"]


class _EntityFields(BaseModel):
    model_config = ConfigDict(extra="allow")

    status: Status | None = None
    # The version that the caller has seen; another one in the database is a conflict. Without it the last write wins.
    version: Id | None = None
    attributes: dict[str, Any] = {}
    _text: str = PrivateAttr("{}")

    @model_validator(mode="after")
    def _read_attributes(self) -> _EntityFields:
        self._text = attributes_text({**self.attributes, **(self.model_extra or {})})
        return self

    @property
    def text(self) -> str:
        """All attributes as JSON text, checked."""
        return self._text


class EntityData(_EntityFields):
    """`id` names one entity; READ without it lists those of the type that have all given attributes."""

    entity_type: EntityType
    id: Id | None = None


class EntityRequest(BaseModel):
    """UPDATE merges the attributes into the present ones; `limit` and `cursor` are for a READ that lists."""

    operation: Operation
    entity_data: EntityData
    limit: PageSize = PAGE_DEFAULT
    cursor: Cursor = None

    @model_validator(mode="after")
    def _names_its_entity(self) -> EntityRequest:
        if self.operation in ("UPDATE", "DELETE") and self.entity_data.id is None:
            raise PydanticCustomError(
                "id_missing", "{operation} needs the id in entity_data", {"operation": self.operation}
            )
        return self


class EntityReplacement(_EntityFields):
    """The whole of an entity's attributes. Its type never changes; a given one has to be the present one."""

    entity_type: EntityType | None = None


class Entity(BaseModel):
    id: int
    entity_type: str
    attributes: dict[str, Any]
    status: str
    version: int
    created_by: int
    created_at: datetime
    updated_by: int
    updated_at: datetime


class EntityPage(BaseModel):
    items: list[Entity]
    nextCursor: int | None


class EntityDeleted(BaseModel):
    id: int
    deleted: bool
