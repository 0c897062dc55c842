"""Of which class queries are that do not say: those of requests are ``web``, those of background work say so once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from b1.db.options import Priority

_USUAL: ContextVar[Priority] = ContextVar("b1_db_priority", default="web")


def usual_priority() -> Priority:
    """Return the class of a query that does not say."""
    return _USUAL.get()


@contextmanager
def in_background() -> Iterator[None]:
    """Make all queries of the block, and of tasks that it starts, ``background`` unless they say otherwise."""
    token = _USUAL.set("background")
    try:
        yield
    finally:
        _USUAL.reset(token)
