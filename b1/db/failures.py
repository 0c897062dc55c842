"""What a failure of the connection means to a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from b1.errors import DatabaseUnavailable, DeadlineExceeded, RequestError

if TYPE_CHECKING:
    from b1.db.session import RawConnection

_QUERY_CANCELED = "57014"
_ENDED_BY_SERVER = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})


def as_ours(error: BaseException, raw: RawConnection) -> RequestError | None:
    """Return what a failure means to a request, or None for an error that is the statement's own."""
    import asyncpg

    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state in _ENDED_BY_SERVER or state.startswith("08"):
            return DatabaseUnavailable("the database ended the connection")
        if state == _QUERY_CANCELED:  # not by us: an abandoned query has nobody left who hears of it
            return DeadlineExceeded("the database ended a statement that took too long")
    elif isinstance(error, asyncpg.InternalClientError):
        raw.terminate()  # asked after the server's last words were read, or out of step: of no use to anybody
        return DatabaseUnavailable("the connection to the database is out of order")
    elif isinstance(error, OSError) or raw.is_closed():
        return DatabaseUnavailable("the connection to the database broke")
    return None
