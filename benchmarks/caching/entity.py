"""What all servers of the fixed workload share: the model, the statements and the paths. Nothing of b1 in it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

TABLE = """
CREATE TABLE entities (id int PRIMARY KEY, organization_id int NOT NULL, revision int NOT NULL, lines json NOT NULL)
"""
READ = "SELECT id, organization_id, revision, lines FROM entities WHERE id = $1 AND organization_id = $2"
WRITE = "UPDATE entities SET revision = revision + 1 WHERE id = $1 AND organization_id = $2 RETURNING revision"
PLAIN, DATA, BYTES, ANSWER = "plain", "data", "bytes", "answer"  # the first part of the path


class Line(BaseModel):
    """One line of an order."""

    item: str
    quantity: int
    cents: int
    note: str


class Entity(BaseModel):
    """An order with its lines."""

    id: int
    organization: int
    revision: int
    lines: list[Line]


def document(row: Any) -> dict[str, Any]:
    """Return the entity of a row."""
    return {
        "id": row["id"],
        "organization": row["organization_id"],
        "revision": row["revision"],
        "lines": json.loads(row["lines"]),
    }
