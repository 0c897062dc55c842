"""Which problems the routes document in OpenAPI."""

from __future__ import annotations

from typing import Any, Final

_PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "description": "Stable, upper case."},
        "requestId": {"type": "string"},
        "retryAfter": {"type": "integer", "description": "Seconds to wait before a repeat makes sense."},
    },
}
_DESCRIPTIONS: Final = {
    400: "The request cannot be read, or lacks a header that it needs",
    401: "Valid credentials are needed",
    403: "Not allowed in this organisation, or not for this role",
    404: "No such entity in this organisation",
    409: "In conflict with what happened before",
    413: "The body is too large",
    422: "The request is not valid",
    429: "A limit is exceeded, or a penalty is active",
    503: "At the limit, or the database is away; Retry-After says when to come back",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` argument of a route."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {"application/problem+json": {"schema": _PROBLEM_SCHEMA}},
        }
        for status in statuses
    }


READING_PROBLEMS: Final = problems(400, 401, 403, 404, 422, 429, 503)
CHANGING_PROBLEMS: Final = problems(400, 401, 403, 404, 409, 413, 422, 429, 503)
POSTING_PROBLEMS: Final = problems(400, 401, 403, 409, 413, 422, 429, 503)
LOGIN_PROBLEMS: Final = problems(400, 401, 413, 422, 429, 503)
