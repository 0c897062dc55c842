"""Turns every error of a FastAPI or Starlette application into a problem document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

from b1.asgi.reply import PROBLEM_TYPE, encoded, error_headers, problem, problem_of
from b1.errors import RequestError, transient

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_CODES = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED",
    406: "NOT_ACCEPTABLE", 408: "REQUEST_TIMEOUT", 409: "CONFLICT", 410: "GONE", 412: "PRECONDITION_FAILED",
    413: "BODY_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE", 422: "VALIDATION_FAILED", 429: "RATE_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR", 503: "UNAVAILABLE",
}  # fmt: skip


# Answers that have no body by definition: a problem document would break the connection's framing.
_BODYLESS = frozenset({204, 205, 304})


def install_handlers(app: Starlette) -> None:
    """Register ours where the application has none of its own; FastAPI's defaults count as none."""
    from starlette.exceptions import HTTPException

    defaults: list[tuple[Any, Any, Any]] = [
        (HTTPException, _http_exception, _fastapi_default("http_exception_handler")),
        (Exception, _unhandled, None),
        (RequestError, _request_error, None),
    ]
    validation = _validation_error_type()
    if validation is not None:
        defaults.append((validation, _validation, _fastapi_default("request_validation_exception_handler")))
    for kind, ours, default in defaults:
        present = app.exception_handlers.get(kind)
        if present is None or present is default:
            app.exception_handlers[kind] = ours


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    context = request.scope.get("b1")
    if context is not None:
        context.code = error.code
    headers = dict(_decoded(error_headers(error)))
    if hasattr(error, "encoded"):  # it brings most of its document along
        return _response_of(error.status, encoded(error, context, request.scope["path"]), headers)
    return _response(problem_of(error, context, request.scope["path"]), headers)


async def _http_exception(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 500))
    if status in _BODYLESS or status < 200:
        from starlette.responses import Response

        return Response(status_code=status, headers=getattr(error, "headers", None))
    detail = getattr(error, "detail", None)
    extra = {"errors": detail} if detail is not None and not isinstance(detail, str) else None
    members = problem(
        status=status,
        code=_CODES.get(status, f"HTTP_{status}"),
        detail=detail if isinstance(detail, str) else None,
        instance=request.scope["path"],
        request_id=_request_id(request),
        extra=extra,
    )
    return _response(members, dict(getattr(error, "headers", None) or {}))


async def _validation(request: Request, error: Exception) -> Response:
    context = request.scope.get("b1")
    if context is not None:
        context.storable = False  # the handler never ran: the corrected request may use the same key
    found = error.errors()  # type: ignore[attr-defined]  # RequestValidationError, known by registration
    is_json_broken = any(one.get("type") == "json_invalid" for one in found)
    errors = [{"loc": list(one["loc"]), "msg": one["msg"], "type": one["type"]} for one in found[:20]]
    first = errors[0] if errors else {"loc": [], "msg": "invalid"}
    members = problem(
        status=400 if is_json_broken else 422,
        code="MALFORMED_REQUEST" if is_json_broken else "VALIDATION_FAILED",
        title="The request cannot be read" if is_json_broken else "The request is not valid",
        detail=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
        instance=request.scope["path"],
        request_id=_request_id(request),
        extra={"errors": errors},
    )
    return _response(members, {})


async def _unhandled(request: Request, error: Exception) -> Response:
    lost = transient(error)
    if lost is not None:
        return await _request_error(request, lost)
    members = problem(
        status=500,
        code="INTERNAL_ERROR",
        detail="The server failed; the request id names this failure in its log.",
        instance=request.scope["path"],
        request_id=_request_id(request),
    )
    return _response(members, {})


def _response(members: dict[str, Any], headers: dict[str, str]) -> Response:
    return _response_of(members["status"], _encoded(members), headers)


def _response_of(status: int, body: bytes, headers: dict[str, str]) -> Response:
    from starlette.responses import Response

    return Response(
        body,
        status_code=status,
        headers={"cache-control": "no-store", **headers},
        media_type=PROBLEM_TYPE.decode(),
    )


def _encoded(members: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(members, default=str, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # half a surrogate pair, from a message that quotes its input: escaped it is legal
        return json.dumps(members, default=str).encode()


def _decoded(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _request_id(request: Request) -> str | None:
    context = request.scope.get("b1")
    return context.request_id if context is not None else None


def _validation_error_type() -> type[Exception] | None:
    try:
        from fastapi.exceptions import RequestValidationError
    except ImportError:  # Starlette without FastAPI
        return None
    return RequestValidationError


def _fastapi_default(name: str) -> Any:
    try:
        from fastapi import exception_handlers
    except ImportError:
        return None
    return getattr(exception_handlers, name)
