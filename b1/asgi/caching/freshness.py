"""May this answer be stored, for how long is it fresh, and what are clients told?

The handler's own words are obeyed where they are stricter than the route's: the shorter lifetime holds, ``private`` and
``no-store`` are not stored, and ``must-revalidate``, ``proxy-revalidate`` and ``s-maxage`` forbid serving it stale
(RFC 9111 §4.2.4, §5.2.2.10). Heuristics are not used: a route says its `ttl_s`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from b1.asgi.caching.directives import Directives, Fields, age_of, date_of, elements

if TYPE_CHECKING:
    from b1.asgi.caching.plan import RoutePlan

_NEGATIVE = frozenset({404, 410, 301, 308})
_PERMISSIONS = (b"public", b"s-maxage", b"must-revalidate")
_NO_STALE = (b"must-revalidate", b"proxy-revalidate", b"s-maxage", b"no-cache")
PROBLEM = b"application/problem+json"


class Freshness(NamedTuple):
    """Of an answer that may be stored; all in seconds.

    Attributes:
        fresh_s: for how long from now on it is fresh.
        stale_s: for how long after that it may be served while it is refreshed.
        error_s: for how long after that it may be served when the handler fails.
        age_s: how old it was when it came.
    """

    fresh_s: float
    stale_s: float
    error_s: float
    age_s: int


class Unstorable(NamedTuple):
    """`reason`: a short fixed word, for counters."""

    reason: str


def judge(
    status: int, fields: Fields, plan: RoutePlan, *, has_principal: bool, wall_s: float
) -> Freshness | Unstorable:
    """Say how long an answer to GET may be served, or why it may not be stored.

    Args:
        has_principal: somebody known asked, which matters on public routes (RFC 9111 §3.5).
        wall_s: now, for ``Expires`` of an answer without ``Date``.
    """
    ttl_s = _declared(status, plan)
    control = Directives(fields.get(b"cache-control", ()))
    reason = _forbidden(status, fields, control, plan, has_principal=has_principal)
    if reason is None and ttl_s <= 0:
        reason = "status"
    if reason is not None:
        return Unstorable(reason)
    age_s = age_of(fields.get(b"age", ()))
    explicit_s = _explicit(fields, control, wall_s)
    fresh_s = ttl_s if explicit_s is None else min(ttl_s, explicit_s - age_s)
    if fresh_s <= 0:
        return Unstorable("stale")
    if any(name in control for name in _NO_STALE) or status != 200:
        return Freshness(fresh_s, 0.0, 0.0, age_s)
    stale_s, error_s = control.seconds(b"stale-while-revalidate"), control.seconds(b"stale-if-error")
    return Freshness(
        fresh_s,
        plan.stale_s if stale_s is None else stale_s,
        plan.stale_if_error_s if error_s is None else error_s,
        age_s,
    )


def _declared(status: int, plan: RoutePlan) -> float:
    if status == 200:
        return plan.options.ttl_s
    return plan.options.negative_ttl_s if status in _NEGATIVE else 0.0


def _forbidden(status: int, fields: Fields, control: Directives, plan: RoutePlan, *, has_principal: bool) -> str | None:
    if b"set-cookie" in fields:
        return "cookie"
    # A problem document of ours says no-store for the cases that nobody thought of; this one was thought of.
    is_ours = status in _NEGATIVE and fields.get(b"content-type") == [PROBLEM]
    if b"private" in control or b"no-cache" in control or (b"no-store" in control and not is_ours):
        return "control"
    if plan.is_public and has_principal and not any(name in control for name in _PERMISSIONS):
        return "authorization"
    for name in elements(fields.get(b"vary", ())):
        if name.lower() not in plan.varies_by:
            return "vary"
    if b"content-range" in fields or b"trailer" in fields:
        return "partial"
    if fields.get(b"content-type", [b""])[0].startswith(b"text/event-stream"):
        return "stream"
    return None


def _explicit(fields: Fields, control: Directives, wall_s: float) -> float | None:
    """Return the lifetime that the handler gave; None without one, 0 for one that is not understood."""
    for name in (b"s-maxage", b"max-age"):
        seconds = control.seconds(name)
        if seconds is not None:
            return seconds
    expires = fields.get(b"expires")
    if expires is None:
        return None
    until_s = date_of(expires[0]) if len(expires) == 1 else None
    if until_s is None:
        return 0.0
    dates = fields.get(b"date", ())
    from_s = date_of(dates[0]) if len(dates) == 1 else None
    return until_s - (wall_s if from_s is None else from_s)


def told(plan: RoutePlan) -> bytes:
    """Return the Cache-Control of an answer whose handler gave none; with `client_ttl_s` its max-age is left open.

    No invalidation reaches a browser, so by default it asks each time, and mostly gets a 304.
    """
    whose = b"public" if plan.is_public else b"private"
    options = plan.options
    if not options.client_ttl_s:
        return whose + b", no-cache"
    control = whose + b", max-age=%d"
    if plan.stale_s:
        control += b", stale-while-revalidate=" + str(int(plan.stale_s)).encode()
    if plan.stale_if_error_s:
        control += b", stale-if-error=" + str(int(plan.stale_if_error_s)).encode()
    return control
