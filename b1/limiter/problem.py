"""A refusal as the members of a problem document (RFC 9457)."""

from __future__ import annotations

import time
from typing import Any

from b1.errors import CallerDenied, PenaltyActive, RateLimited, RequestError
from b1.limiter.decision import Decision, PolicyState

_IANA = "https://iana.org/assignments/http-problem-types#"
QUOTA_EXCEEDED = f"{_IANA}quota-exceeded"
ABNORMAL_USAGE = f"{_IANA}abnormal-usage-detected"


def error_of(decision: Decision) -> type[RequestError]:
    """Return which error a refusal is."""
    if decision.is_denied:
        return CallerDenied
    return PenaltyActive if decision.is_penalty else RateLimited


def type_of(decision: Decision) -> str:
    """Return the problem type of a refusal."""
    if decision.is_denied:
        return "about:blank"
    return ABNORMAL_USAGE if decision.is_penalty else QUOTA_EXCEEDED


def refusal_members(decision: Decision, *, upgrade_url: str) -> dict[str, Any]:
    """Return what a refusal adds to (and replaces in) the common members: nothing of it says who the caller is."""
    if decision.is_denied:
        return {"type": type_of(decision), "detail": refusal_detail(decision)}
    return {
        "type": type_of(decision),
        "detail": refusal_detail(decision),
        "retryAfter": decision.retry_after_s,
        "currentTier": decision.tier,
        "upgradeUrl": upgrade_url,
        "limits": [_limit(state, decision.now_s) for state in decision.states],
        "violated-policies": list(decision.violated),
    }


def refusal_body(decision: Decision, *, request_id: str, instance: str, upgrade_url: str) -> dict[str, Any]:
    """Return the whole problem document of a refusal."""
    error = error_of(decision)
    return {
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "instance": instance,
        "requestId": request_id,
        **refusal_members(decision, upgrade_url=upgrade_url),
    }


def refusal_detail(decision: Decision) -> str:
    """Return one sentence about a refusal."""
    nearest = decision.nearest
    if decision.is_denied:
        return CallerDenied.title
    if decision.is_penalty:
        return f"Refused after repeated offences; whoever waits {decision.retry_after_s} s is let in."
    if nearest is None:
        return RateLimited.title
    if not nearest.window_s:
        return f'Policy "{nearest.name}" allows {nearest.limit} requests at a time.'
    return f'Policy "{nearest.name}" allows {nearest.limit} requests per {nearest.window_s} s.'


def _limit(state: PolicyState, now_s: int) -> dict[str, Any]:
    return {
        "policy": state.name,
        "limit": state.limit,
        "remaining": state.remaining,
        "used": state.used,
        "window": state.window_s,
        "reset": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s + state.reset_s)),
    }
