"""Sends stored answers: the headers are ready, only the age and what happened (RFC 9211) are put to them."""

from __future__ import annotations

from b1.asgi.caching.conditional import FAILED, NOT_MODIFIED, OK, is_conditional, judge
from b1.asgi.caching.stored import StoredAnswer, Variant
from b1.asgi.context import RequestContext
from b1.asgi.reply import problem, send_problem_document
from b1.types import ASGIApp, Headers, Message, Receive, Scope, Send

NAME = b"cache-status"


async def send_answer(
    send: Send,
    scope: Scope,
    context: RequestContext,
    answer: StoredAnswer,
    body: bytes,
    variant: Variant,
    now_s: float,
    status: bytes,
    *,
    is_reused: bool = True,
) -> int:
    """Answer with a variant, with 304 or with 412, as the request's conditions have it; return the status.

    Args:
        body: of all variants.
        status: the value of Cache-Status.
        is_reused: False for the answer that the handler just made, whose age is only told when it came with one.
    """
    outcome = OK
    if is_conditional(context.fields) and answer.status == 200:
        outcome = judge(scope["headers"], variant.etag, answer.modified_s)
    if outcome == FAILED:
        await send_condition_failed(send, scope, context, status)
        return FAILED
    age_s = int(now_s - answer.made_s)
    headers: Headers = [*(variant.head if outcome == OK else variant.not_modified)]
    if answer.told is not None:
        headers.append((b"cache-control", answer.told % (age_s + answer.client_ttl_s)))
    if is_reused or age_s:
        headers.append((b"age", b"%d" % max(0, age_s)))
    headers.append((NAME, status))
    code = NOT_MODIFIED if outcome == NOT_MODIFIED else answer.status
    is_bare = outcome == NOT_MODIFIED or scope["method"] == "HEAD"
    # Taken before anything is sent: one that lies packed may turn out to be damaged (`b1.asgi.caching.holding.Bodies`).
    sent = b"" if is_bare else body[variant.start : variant.end]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": sent})
    return code


async def send_condition_failed(send: Send, scope: Scope, context: RequestContext, status: bytes) -> None:
    """Answer 412: If-Match or If-Unmodified-Since does not hold."""
    context.code = "PRECONDITION_FAILED"
    members = problem(
        status=FAILED,
        code="PRECONDITION_FAILED",
        detail="The answer is not the one that the request's condition names.",
        instance=scope["path"],
        request_id=context.request_id,
    )
    await send_problem_document(send, members, headers=[(NAME, status)])


async def send_not_stored(send: Send, scope: Scope, context: RequestContext) -> None:
    """Answer 504: the request wanted a stored answer or none."""
    context.storable = False
    context.code = "NOT_STORED"
    members = problem(
        status=504,
        code="NOT_STORED",
        detail="No stored answer is fresh, and the request says only-if-cached.",
        instance=scope["path"],
        request_id=context.request_id,
    )
    await send_problem_document(send, members, headers=[(NAME, b"b1; fwd=request; detail=only-if-cached")])


def hit_status(answer: StoredAnswer, now_s: float, detail: bytes) -> bytes:
    """Return the Cache-Status of a stored answer; a negative ttl says for how long it has been stale."""
    return b"b1; hit; ttl=%d; detail=%b" % (int(answer.fresh_until_s - now_s), detail)


def with_status(headers: Headers, status: bytes) -> Headers:
    """Return the headers of a forwarded answer; what stands there already is nearer to the origin and stays first."""
    return [*headers, (NAME, status)]


async def pass_by(app: ASGIApp, scope: Scope, receive: Receive, send: Send, status: bytes) -> None:
    """Let a request through untouched, and say why."""

    async def saying(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": with_status(list(message.get("headers", ())), status)}
        await send(message)

    await app(scope, receive, saying)
