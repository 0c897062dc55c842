"""Complete answers from plain ASGI: problem documents (RFC 9457), JSON and prepared bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson

from b1.asgi.context import RequestContext
from b1.errors import RequestError
from b1.types import Headers, Scope, Send

PROBLEM_TYPE = b"application/problem+json"
JSON_TYPE = b"application/json"


def type_uri(code: str) -> str:
    """Return the problem type of a code: stable, and the anchor of its section in docs/reference/errors.md."""
    return f"urn:b1:error:{code.lower().replace('_', '-')}"


def phrase(status: int) -> str:
    """Return the standard words for a status; for one that has none, its number."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def problem(
    *,
    status: int,
    code: str,
    title: str | None = None,
    detail: str | None = None,
    instance: str | None = None,
    request_id: str | None = None,
    retry_after: float | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the members of a problem document."""
    members: dict[str, Any] = {
        "type": type_uri(code),
        "title": title or phrase(status),
        "status": status,
        "detail": detail or title or phrase(status),
        "code": code,
    }
    if instance is not None:
        members["instance"] = instance
    if request_id is not None:
        members["requestId"] = request_id
    if retry_after is not None:
        members["retryAfter"] = whole_seconds(retry_after)
    if extra:
        members.update(extra)
    return members


def problem_of(error: RequestError, context: RequestContext | None, path: str | None) -> dict[str, Any]:
    """Build the problem document of an error of ours."""
    return problem(
        status=error.status,
        code=error.code,
        title=error.title,
        detail=error.detail,
        instance=path,
        request_id=context.request_id if context else None,
        retry_after=error.retry_after,
        extra=getattr(error, "members", None),
    )


async def send_problem(
    send: Send,
    error: RequestError,
    scope: Scope,
    *,
    extra: Mapping[str, Any] | None = None,
    headers: Headers | None = None,
) -> None:
    """Answer with the problem document of `error`; marks the context so that nobody stores the answer."""
    context: RequestContext | None = scope.get("b1")
    if context is not None:
        context.storable = False
        context.code = error.code
    path = scope.get("path")
    body = orjson.dumps(problem_of(error, context, path) | dict(extra)) if extra else encoded(error, context, path)
    sent = [(b"cache-control", b"no-store"), *error_headers(error), *(headers or ())]
    await send_bytes(send, error.status, body, PROBLEM_TYPE, sent)


def encoded(error: RequestError, context: RequestContext | None, path: str | None) -> bytes:
    """Return the problem document of an error of ours as bytes; some errors bring most of it along."""
    bring = getattr(error, "encoded", None)
    if bring is not None:
        body: bytes = bring(path, context.request_id if context else None)
        return body
    return orjson.dumps(problem_of(error, context, path))


def error_headers(error: RequestError) -> Headers:
    """Return the headers that belong to an error: Retry-After, WWW-Authenticate, or what the error carries itself."""
    headers: Headers = list(getattr(error, "headers", ()))
    if error.retry_after is not None and not any(name == b"retry-after" for name, _ in headers):
        headers.append((b"retry-after", str(whole_seconds(error.retry_after)).encode()))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'Bearer realm="b1"'))
    return headers


async def send_problem_document(send: Send, members: Mapping[str, Any], *, headers: Headers | None = None) -> None:
    """Answer with a problem document that is already built."""
    await send_bytes(
        send,
        int(members["status"]),
        orjson.dumps(members),
        PROBLEM_TYPE,
        [(b"cache-control", b"no-store"), *(headers or ())],
    )


async def send_json(send: Send, status: int, value: Any, *, headers: Headers | None = None) -> None:
    """Answer with JSON."""
    await send_bytes(send, status, orjson.dumps(value), JSON_TYPE, headers)


async def send_bytes(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes,
    headers: Headers | None = None,
    *,
    is_head: bool = False,
) -> None:
    """Answer with bytes that are ready; to a HEAD with their length alone."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
                *(headers or ()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": b"" if is_head else body})


def whole_seconds(seconds: float) -> int:
    """Round up to whole seconds, at least one: a Retry-After of 0 invites a storm."""
    return max(1, math.ceil(seconds))
