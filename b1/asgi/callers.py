"""Whom a request or a WebSocket is counted against, and what a policy counts that was told what to count."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.requests import HTTPConnection

from b1.asgi.context import RequestContext
from b1.limiter import Caller
from b1.types import Principal

# Reads from a request or a WebSocket what a policy counts; None or nothing: what it counts for everybody.
KeyOf = Callable[[HTTPConnection], str | None]

# A named tuple made by its own constructor costs twice as much, and this one is made for every request.
_new = tuple.__new__


def caller_of(context: RequestContext) -> Caller:
    """Return whom a request is counted against."""
    principal = context.principal
    return Caller(context.client) if principal is None else caller_of_principal(principal, context.client)


def caller_of_principal(principal: Principal, address: str) -> Caller:
    """Return whom work on behalf of a principal is counted against."""
    return _new(Caller, (address, principal.actor, principal.organization, principal.role, principal.tier, ()))


def keys_of(keyed: Iterable[tuple[str, KeyOf]], connection: HTTPConnection) -> tuple[tuple[str, str], ...]:
    """Ask each callable once; return policy names with what they count for this request."""
    asked: dict[KeyOf, str | None] = {}
    found = []
    for name, key_of in keyed:
        if key_of not in asked:
            asked[key_of] = key_of(connection)
        key = asked[key_of]
        if key:
            found.append((name, str(key)))
    return tuple(found)


def with_keys(caller: Caller, keys: tuple[tuple[str, str], ...]) -> Caller:
    """Return the caller with texts that the named policies count, instead of what their scope says."""
    return caller._replace(keys=keys) if keys else caller
