"""Named limits: policies, callers, one decision per request, and how a client is told."""

from b1.limiter.address import address_key, client_address
from b1.limiter.decision import Caller, Decision, PolicyState
from b1.limiter.defaults import DEFAULT_POLICIES
from b1.limiter.headers import DIALECTS, Dialect, decision_headers
from b1.limiter.limiter import Limiter, LimiterSnapshot
from b1.limiter.policy import ROLE_MULTIPLIERS, Policy, PolicyTable, Rate, Scope, parse_rate, scaled
from b1.limiter.problem import QUOTA_EXCEEDED, refusal_body, refusal_members

__all__ = [
    "DEFAULT_POLICIES",
    "DIALECTS",
    "QUOTA_EXCEEDED",
    "ROLE_MULTIPLIERS",
    "Caller",
    "Decision",
    "Dialect",
    "Limiter",
    "LimiterSnapshot",
    "Policy",
    "PolicyState",
    "PolicyTable",
    "Rate",
    "Scope",
    "address_key",
    "client_address",
    "decision_headers",
    "parse_rate",
    "refusal_body",
    "refusal_members",
    "scaled",
]
