"""CORS for a short list of named origins, by Starlette's own middleware; every header of ours is exposed to scripts."""

from __future__ import annotations

from collections.abc import Sequence

from b1.asgi.stack import Layer
from b1.limiter import EXPOSED
from b1.types import ASGIApp

_REQUEST_HEADERS = (
    "Authorization", "Content-Type", "Idempotency-Key", "X-Idempotency-Key", "X-Organization-Id", "X-Request-Id",
    "X-No-Compression", "Last-Event-ID",
)  # fmt: skip
_EXPOSED_HEADERS = (
    *EXPOSED, "X-Request-Id", "Idempotent-Replayed", "X-Idempotency-Replay", "X-Original-Timestamp",
    "Idempotency-Stored", "Idempotency-Key-Source", "Cache-Status",
)  # fmt: skip


def cors_layer(origins: Sequence[str]) -> Layer:
    """Return the layer for these origins; preflights are answered by it and cost no quota."""

    def wrap(app: ASGIApp) -> ASGIApp:
        from starlette.middleware.cors import CORSMiddleware

        return CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
            max_age=600,
        )

    return wrap
