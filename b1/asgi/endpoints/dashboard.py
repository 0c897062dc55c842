"""The live page: one static file that reads /health/detailed every two seconds."""

from __future__ import annotations

from pathlib import Path

from b1.asgi.context import RequestContext
from b1.asgi.middleware.probes import Answer, Endpoint


def dashboard_endpoint() -> Endpoint:
    """Return the page's endpoint; the file is read once, when the stack is built."""
    page = Path(__file__).with_name("dashboard.html").read_bytes()

    def render(_: RequestContext) -> Answer:
        return 200, b"text/html; charset=utf-8", page

    return Endpoint(render)
