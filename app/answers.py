"""Answers as bytes.

Queries name their columns as the answer does, so a row goes from the driver to JSON without a model in between: for a
page of fifty that is a tenth of the work. The models beside the routes document the shape; the tests hold answers to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Response


def json_answer(content: Any, status: int = 200) -> Response:
    """Answer with JSON; moments are written as RFC 3339 in UTC with a Z."""
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), status, media_type="application/json")


def page(rows: Sequence[Any], limit: int) -> dict[str, Any]:
    """Make a page of `limit` rows from a query that asked for one more; its cursor is the last id shown."""
    items = [dict(row) for row in rows[:limit]]
    return {"items": items, "nextCursor": items[-1]["id"] if len(rows) > limit else None}
