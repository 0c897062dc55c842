"""What the OpenAPI document says of idempotency, on the operations that declare it: the key, its lifetime, the answers.

The IETF draft demands that a server publishes how long it remembers a key; this is where (``x-idempotency``).
Everything is added beside what the application wrote itself, which stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from typing import Any

from b1.asgi.options import declared
from b1.idempotency.key import MAX_LENGTH
from b1.idempotency.options import IdempotencyOptions

Document = dict[str, Any]
_CONVERTER = re.compile(r"\{([^}:]+):[^}]+\}")
_SUCCESS = re.compile(r"[23]\d\d|[23]XX|default")
_DATE_TIME = {"type": "string", "format": "date-time"}
_TRUE = {"type": "string", "enum": ["true"]}
_REPLAYED: Document = {
    "Idempotent-Replayed": {"schema": _TRUE, "description": "The stored answer of the first request with this key."},
    "X-Idempotency-Replay": {"schema": _TRUE, "description": "The same."},
    "X-Original-Timestamp": {"schema": _DATE_TIME, "description": "When a replayed answer was given first."},
    "Idempotency-Stored": {
        "schema": {"type": "string", "enum": ["false"]},
        "description": "The answer could not be stored; it will not be replayed.",
    },
}
_SOURCE: Document = {
    "Idempotency-Key-Source": {
        "schema": {"type": "string", "enum": ["auto"]},
        "description": "The request had no key, and one was made from it.",
    }
}
_RETRY_AFTER: Document = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}


def describe_idempotency(app: Any, mismatch_status: int = 409, *, described_by: str | None = None) -> None:
    """Have the document of a FastAPI application say what its routes declare; other applications stay as they are.

    Args:
        mismatch_status: of the service, for routes that name none.
        described_by: address of the application's own page about its keys.
    """
    describe = getattr(app, "openapi", None)
    if describe is None or getattr(describe, "says_idempotency", False):
        return

    def described() -> Document:
        document: Document = describe()
        for path, method, route in _declared(app):
            operation = document.get("paths", {}).get(path, {}).get(method)
            if operation is not None:
                add_to_operation(operation, route, document, mismatch_status, described_by)
        return document

    described.says_idempotency = True  # type: ignore[attr-defined]  # marks our own wrapper, so that two are not one too many
    app.openapi = described


def add_to_operation(
    operation: Document, route: IdempotencyOptions, document: Document, mismatch_status: int, described_by: str | None
) -> None:
    """Add to one operation; doing it again changes nothing."""
    mismatch_status = route.mismatch_status or mismatch_status
    _add_parameter(operation, route)
    operation["x-idempotency"] = {
        "required": route.required,
        "ttl": route.ttl_s,
        "mismatchStatus": mismatch_status,
        "transactional": route.transactional,
        **({"autoKeyTtl": route.auto_key_s} if route.auto_key else {}),
        **({"documentation": described_by} if described_by else {}),
    }
    operation["x-idempotency-ttl"] = route.ttl_s
    responses = operation.setdefault("responses", {})
    for status, response in responses.items():
        if _SUCCESS.fullmatch(str(status)):
            _add_headers(response, {**_REPLAYED, **(_SOURCE if route.auto_key else {})})
    _add_refusal(responses, 400, "The Idempotency-Key is missing or malformed", document)
    _add_refusal(
        responses, 409, "The first request with this Idempotency-Key still runs, or had another payload", document
    )
    _add_headers(responses["409"], _RETRY_AFTER)
    if mismatch_status != 409:
        _add_refusal(responses, mismatch_status, "The Idempotency-Key belongs to another payload", document)


def _declared(app: Any) -> Iterator[tuple[str, str, IdempotencyOptions]]:
    from fastapi.routing import iter_route_contexts

    for context in iter_route_contexts(list(getattr(app, "routes", ()))):
        route = declared(context.endpoint).idempotency
        if route is None or not route.enabled or context.path is None:
            continue
        for method in context.methods or ():
            yield _CONVERTER.sub(r"{\1}", context.path), method.lower(), route


def _add_parameter(operation: Document, route: IdempotencyOptions) -> None:
    parameters = operation.setdefault("parameters", [])
    if any(str(one.get("name", "")).lower() == "idempotency-key" for one in parameters):
        return
    parameters.append(
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": route.required,
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH},
            "description": "New for each new operation, the same for each repeat of it. "
            f"Its answer is remembered for {route.ttl_s:g} s.",
        }
    )


def _add_headers(response: MutableMapping[str, Any], headers: Document) -> None:
    known = response.setdefault("headers", {})
    for name, header in headers.items():
        known.setdefault(name, header)


def _add_refusal(responses: Document, status: int, description: str, document: Document) -> None:
    schemas = document.get("components", {}).get("schemas", {})
    schema = {"$ref": "#/components/schemas/Problem"} if "Problem" in schemas else {"type": "object"}
    content = {"application/problem+json": {"schema": schema}}
    responses.setdefault(str(status), {"description": description, "content": content})
