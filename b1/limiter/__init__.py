"""Named limits: policies, callers, one decision per request, and how a client is told."""

from b1.limiter.address import address_key, client_address
from b1.limiter.decision import Blame, Caller, Decision, PolicyState
from b1.limiter.defaults import DEFAULT_POLICIES
from b1.limiter.gate import LimiterOptions
from b1.limiter.headers import DIALECTS, EXPOSED, OURS, Dialect, decision_headers, decision_lines
from b1.limiter.limiter import Limiter, LimiterSnapshot
from b1.limiter.lists import CallerLists
from b1.limiter.policy import ROLE_MULTIPLIERS, Policy, PolicyTable, Rate, Scope, parse_rate, scaled
from b1.limiter.problem import (
    ABNORMAL_USAGE,
    QUOTA_EXCEEDED,
    error_of,
    refusal_body,
    refusal_detail,
    refusal_members,
    type_of,
)

__all__ = [
    "ABNORMAL_USAGE",
    "DEFAULT_POLICIES",
    "DIALECTS",
    "EXPOSED",
    "OURS",
    "QUOTA_EXCEEDED",
    "ROLE_MULTIPLIERS",
    "Blame",
    "Caller",
    "CallerLists",
    "Decision",
    "Dialect",
    "Limiter",
    "LimiterOptions",
    "LimiterSnapshot",
    "Policy",
    "PolicyState",
    "PolicyTable",
    "Rate",
    "Scope",
    "address_key",
    "client_address",
    "decision_headers",
    "decision_lines",
    "error_of",
    "parse_rate",
    "refusal_body",
    "refusal_detail",
    "refusal_members",
    "scaled",
    "type_of",
]
