"""The limiter as HTTP sees it: which caller, which policies by default, and refusals that carry their headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from b1.asgi.context import RequestContext
from b1.errors import RateLimited
from b1.limiter import Caller, Decision, Limiter, decision_headers, refusal_members
from b1.metrics import Metrics
from b1.types import Headers, Principal

DefaultPolicies = Callable[[Principal | None, str], tuple[str, ...]]

_BY_METHOD = {"GET": "read", "HEAD": "read", "OPTIONS": "read", "DELETE": "delete"}


class LimitExceeded(RateLimited):
    """A refusal of the limiter, ready to be sent."""

    def __init__(self, decision: Decision, *, upgrade_url: str) -> None:
        super().__init__(retry_after=decision.retry_after_s)
        self.decision = decision
        self.headers: Headers = decision_headers(decision)
        self.members: Mapping[str, Any] = refusal_members(decision, upgrade_url=upgrade_url)
        self.detail = str(self.members.get("detail", self.title))


def policies_by_method(principal: Principal | None, method: str) -> tuple[str, ...]:
    """Name the policies of an application that declares none: read, write and delete, per actor or address."""
    return (_BY_METHOD.get(method, "write"),)


class Limits:
    """Charges requests.

    Args:
        default: names the policies of routes that declare none.
        anonymous: applies to callers without a principal on routes whose own policies count principals; None counts
            such callers by address under the route's policies.
        upgrade_url: where a caller learns about higher quotas.
    """

    def __init__(
        self,
        limiter: Limiter,
        metrics: Metrics,
        *,
        default: DefaultPolicies,
        upgrade_url: str,
        anonymous: tuple[str, ...] | None = None,
    ) -> None:
        self._limiter = limiter
        self._metrics = metrics
        self._default = default
        self._anonymous = anonymous
        self._for_everybody = frozenset(
            name for name, policy in limiter.table.items() if "address" in policy.scope or policy.anonymous_quota
        )
        self._upgrade_url = upgrade_url

    def of(self, context: RequestContext, declared: tuple[str, ...] | None, method: str) -> tuple[str, ...]:
        """Return the policies of a request to a route that declares these, or none."""
        if declared is None:
            return self._default(context.principal, method)
        if context.principal is None and self._anonymous is not None and declared:
            return declared if self._for_everybody.intersection(declared) else self._anonymous
        return declared

    async def charge(self, context: RequestContext, policies: Sequence[str]) -> LimitExceeded | None:
        """Spend for the request; adds the headers to the answer, or returns the refusal."""
        caller = _caller(context)
        decision = self._limiter.check_now(policies, caller) or await self._limiter.check(policies, caller)
        if decision.allowed:
            context.response_headers += decision_headers(decision)
            return None
        return self._refused(decision)

    async def charge_address(self, context: RequestContext) -> LimitExceeded | None:
        """Spend one failed authentication against the caller's address alone."""
        decision = await self._limiter.check(("public",), Caller(address=context.client))
        return None if decision.allowed else self._refused(decision)

    async def enforce(self, policies: Sequence[str], caller: Caller, *, commit: bool) -> None:
        """Spend, or only look, on behalf of a handler.

        Raises:
            LimitExceeded: a policy refuses.
        """
        decision = await self._limiter.check(policies, caller, commit=commit)
        if not decision.allowed:
            raise self._refused(decision)

    def _refused(self, decision: Decision) -> LimitExceeded:
        self._metrics.limit_exceeded(decision.violated)
        return LimitExceeded(decision, upgrade_url=self._upgrade_url)


def _caller(context: RequestContext) -> Caller:
    principal = context.principal
    if principal is None:
        return Caller(address=context.client)
    return Caller(context.client, principal.actor, principal.organization, principal.role, principal.tier)
