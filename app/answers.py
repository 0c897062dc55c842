"""Answers as bytes.

Queries name their columns as the answer does, so a row goes from the driver to JSON without a model in between: for a
page of fifty that is a tenth of the work. The models beside the routes document the shape; the tests hold answers to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Response


def as_json(content: Any) -> bytes:
    """Write JSON; moments as RFC 3339 in UTC with a Z."""
    return orjson.dumps(content, option=orjson.OPT_UTC_Z)


def json_answer(content: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return ready_answer(as_json(content), status)


def ready_answer(json: bytes, status: int = 200) -> Response:
    """Answer with JSON that is written already."""
    return Response(json, status, media_type="application/json")


def page(rows: Sequence[Any], limit: int) -> dict[str, Any]:
    """Make a page of `limit` rows from a query that asked for one more; its cursor is the last id shown."""
    items = [dict(row) for row in rows[:limit]]
    return {"items": items, "nextCursor": items[-1]["id"] if len(rows) > limit else None}
