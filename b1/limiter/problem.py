"""A refusal as the members of a problem document (RFC 9457)."""

from __future__ import annotations

import time
from typing import Any

from b1.errors import RateLimited
from b1.limiter.decision import Decision, PolicyState

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def refusal_members(decision: Decision, *, upgrade_url: str) -> dict[str, Any]:
    """Return what a refusal adds to (and replaces in) the common members: nothing of it says who the caller is."""
    return {
        "type": QUOTA_EXCEEDED,
        "detail": _detail(decision.nearest),
        "retryAfter": decision.retry_after_s,
        "currentTier": decision.tier,
        "upgradeUrl": upgrade_url,
        "limits": [_limit(state, decision.now_s) for state in decision.states],
        "violated-policies": list(decision.violated),
    }


def refusal_body(decision: Decision, *, request_id: str, instance: str, upgrade_url: str) -> dict[str, Any]:
    """Return the whole problem document of a refusal."""
    return {
        "title": RateLimited.title,
        "status": RateLimited.status,
        "code": RateLimited.code,
        "instance": instance,
        "requestId": request_id,
        **refusal_members(decision, upgrade_url=upgrade_url),
    }


def _detail(nearest: PolicyState | None) -> str:
    if nearest is None:
        return RateLimited.title
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
