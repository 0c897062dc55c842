"""Which headers of an answer belong to the outcome and are stored, and which never are, whatever a route asks for. Pure."""

from __future__ import annotations

import re

from b1.types import Headers

STORED_HEADERS = frozenset(
    {
        b"cache-control",
        b"content-encoding",  # belongs to the stored bytes: without it a compressed body would be noise
        b"content-language",
        b"content-location",
        b"content-type",
        b"etag",
        b"last-modified",
        b"link",
        b"location",
    }
)
# Secrets, what belongs to one transfer or one moment, and what the live stack says itself.
_NEVER = frozenset(
    {
        "authorization", "clear-site-data", "connection", "content-length", "cookie", "date", "idempotency-key-source",
        "idempotency-stored", "idempotent-replayed", "keep-alive", "proxy-authenticate", "proxy-authentication-info",
        "proxy-authorization", "proxy-connection", "retry-after", "server", "set-cookie", "set-cookie2", "te",
        "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade", "vary", "via", "www-authenticate",
        "authentication-info", "x-idempotency-replay", "x-original-timestamp", "x-request-id",
    }
)  # fmt: skip
_NEVER_PREFIXES = ("access-control-", "ratelimit", "x-ratelimit-")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def forbidden_header(name: str) -> bool:
    """Say whether a header may not be stored; a text that is no header's name may not."""
    lower = name.lower()
    return not _NAME.fullmatch(name) or lower in _NEVER or lower.startswith(_NEVER_PREFIXES)


def storable_headers(headers: Headers, also: tuple[str, ...] = ()) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that belong to the outcome and not to this one transfer of it.

    Args:
        also: what the route stores besides the usual ones; `IdempotencyOptions` has checked the names.
    """
    wanted = STORED_HEADERS if not also else STORED_HEADERS | {name.lower().encode() for name in also}
    return tuple((name.lower(), value) for name, value in headers if name.lower() in wanted)
