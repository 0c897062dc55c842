"""What the OpenAPI document says beyond the routes' bodies: problems, the token, the tenant and the idempotency key."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "An error, as RFC 9457 has it.",
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
_BEARER: Final = {"type": "http", "scheme": "bearer", "description": "The `accessToken` of `POST /auth/login`."}

SIGNED_IN: Final[dict[str, Any]] = {"security": [{"bearer": []}]}
IN_TENANT: Final[dict[str, Any]] = {
    **SIGNED_IN,
    "parameters": [
        {
            "name": "X-Organization-Id",
            "in": "header",
            "required": False,
            "schema": {"type": "integer"},
            "description": "The organisation to act in; not needed by whoever belongs to exactly one.",
        }
    ],
}
WITH_KEY: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            "description": "New for each new operation, the same for each repeat of it.",
        }
    ]
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` argument of a route."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses}


READING_PROBLEMS: Final = problems(400, 401, 403, 404, 422, 429, 503)
CHANGING_PROBLEMS: Final = problems(400, 401, 403, 404, 409, 413, 422, 429, 503)
POSTING_PROBLEMS: Final = problems(400, 401, 403, 409, 413, 422, 429, 503)
LOGIN_PROBLEMS: Final = problems(400, 401, 413, 422, 429, 503)


def complete(app: FastAPI) -> None:
    """Let the application's document define what the routes refer to."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        document = describe()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = _PROBLEM
        components["securitySchemes"] = {"bearer": _BEARER}
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend its document
