"""Which request a task serves, read from outside of the task: for the watchdog, which looks from another thread."""

from __future__ import annotations

from contextvars import Context

from b1.asgi.context import CONTEXT
from b1.watchdog import Running


def running_request(context: Context) -> Running | None:
    """Return the request in whose context a task runs; tasks that it started inherit it."""
    request = context.get(CONTEXT)
    return Running(request.route.template, request.request_id) if request is not None else None
