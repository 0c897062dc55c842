"""The limiter as HTTP sees it: which caller, which policies by default, and refusals that carry their headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar

from starlette.requests import HTTPConnection

from b1.asgi.callers import caller_of, caller_of_principal, keys_of, with_keys
from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.options import RouteOptions
from b1.asgi.refusals import LimitExceeded as LimitExceeded
from b1.asgi.refusals import Refusal
from b1.errors import ConfigurationError, NotRunning, StoreUnavailable
from b1.limiter import OURS, Blame, Caller, Decision, Dialect, Limiter, PolicyTable, decision_headers, decision_lines
from b1.metrics import Metrics
from b1.store.base import CacheAnswer, CacheRead
from b1.types import Headers, Principal, Scope

DefaultPolicies = Callable[[Principal | None, str], tuple[str, ...]]

_BY_METHOD = {"GET": "read", "HEAD": "read", "OPTIONS": "read", "DELETE": "delete"}


class Charged:
    """What the request in hand was charged, until its work is done.

    Attributes:
        request: what costs were read from.
        holder: of what is held at a time; empty where nothing is.
        cached: what the read found that was asked for along with the decision; None where none was, or a policy refused.
        actual: by policy, units that were taken and units that the work turned out to cost; None: as taken.
    """

    __slots__ = ("actual", "cached", "caller", "holder", "names", "request")

    def __init__(self, names: Sequence[str], caller: Caller, request: Scope, holder: str) -> None:
        self.names = names
        self.caller = caller
        self.request = request
        self.holder = holder
        self.actual: dict[str, tuple[int, int]] | None = None
        self.cached: CacheAnswer | None = None

    @property
    def is_open(self) -> bool:
        """Say whether `Limits.end` has anything to do."""
        return bool(self.holder or self.actual)


CHARGED: ContextVar[Charged | None] = ContextVar("b1_charged", default=None)


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
        dialect: of the IETF draft's header fields.
    """

    def __init__(
        self,
        limiter: Limiter,
        metrics: Metrics,
        *,
        default: DefaultPolicies,
        upgrade_url: str,
        anonymous: tuple[str, ...] | None = None,
        dialect: Dialect = "draft-11",
    ) -> None:
        self._limiter = limiter
        self._metrics = metrics
        self._default = default
        self._anonymous = anonymous
        self._upgrade_url = upgrade_url
        self._dialect: Dialect = dialect
        self._table: PolicyTable | None = None
        self._for_everybody: frozenset[str] = frozenset()
        self._last: Refusal | None = None  # who is shut out gets the same one for a second

    def of(self, context: RequestContext, declared: tuple[str, ...] | None, method: str) -> tuple[str, ...]:
        """Return the policies of a request to a route that declares these, or none."""
        return self._names(context.principal, context.route.options, declared, method)

    def _names(
        self, principal: Principal | None, options: RouteOptions, declared: tuple[str, ...] | None, method: str
    ) -> tuple[str, ...]:
        if declared is None:
            return self._default(principal, method)
        if options.with_default_limits:
            return tuple(dict.fromkeys(declared + self._default(principal, method)))
        if principal is None and self._anonymous is not None and declared:
            if self._table is not self._limiter.table:  # it was replaced
                self._table = self._limiter.table
                self._for_everybody = frozenset(
                    name for name, policy in self._table.items() if "address" in policy.scope or policy.anonymous_quota
                )
            return declared if self._for_everybody.intersection(declared) else self._anonymous
        return declared

    def question_of(
        self, options: RouteOptions, principal: Principal | None, address: str
    ) -> tuple[tuple[str, ...], Caller] | None:
        """Return which policies a GET without a body spends, and for whom; None where that takes more than looking.

        That is so where something is held until the answer's end, or where the request itself says what is counted.
        """
        if options.limit_keys or options.classify is not None:
            return None
        names = self._names(principal, options, options.limits, "GET")
        if self._limiter.holds(names) or self._limiter.asks_request(names):
            return None
        if principal is None:
            return names, Caller(address)
        return names, caller_of_principal(principal, address)

    def decide_soon(
        self,
        names: Sequence[str],
        caller: Caller,
        fields: Mapping[bytes, bytes],
        tell: Callable[[Decision | None], None],
    ) -> Decision | bool:
        """Spend without a coroutine; see `Limiter.check_soon`. Neither headers nor refusal are made."""
        return self._limiter.check_soon(names, caller, fields, tell)

    async def charge(
        self, context: RequestContext, policies: Sequence[str], scope: Scope | None = None
    ) -> LimitExceeded | None:
        """Spend for a request of which nothing is held and nothing is settled; see `admit`."""
        caller, fields, request = caller_of(context), context.fields, scope or {}
        now = self._limiter.check_now(policies, caller, request=request, fields=fields)
        decision = now or await self._limiter.check(policies, caller, request=request, fields=fields)
        return self._answer(context, decision)

    def admit_now(
        self, context: RequestContext, policies: Sequence[str], scope: Scope
    ) -> tuple[Charged, LimitExceeded | None] | None:
        """Do what `admit` does where no await is needed and nothing is held; None, and nothing was spent, where it is.

        Raises:
            ConfigurationError, ValueError: as `Limiter.check_now`.
        """
        limiter = self._limiter
        if limiter.holds(policies):
            return None
        caller = _counted(context, scope) if context.route.options.limit_keys else caller_of(context)
        decision = limiter.check_now(policies, caller, request=scope, fields=context.fields)
        if decision is None:
            return None
        charged = Charged(policies, caller, scope, "")
        CHARGED.set(charged)
        if not decision.allowed:
            return charged, self.refusal(decision)
        context.tell(decision, self)
        return charged, None

    async def admit(
        self,
        context: RequestContext,
        policies: Sequence[str],
        scope: Scope,
        read: CacheRead | None = None,
        *,
        is_asked: bool = False,
    ) -> tuple[Charged, LimitExceeded | None]:
        """Spend for the request: add the headers to the answer, or return the refusal.

        Whoever calls this calls `end` when the work is over, whatever its ending, if `is_open` says so.

        Args:
            read: of the cache, in the same round trip; `Charged.cached` has what it found.
            is_asked: `admit_now` could not say.
        """
        limiter = self._limiter
        holder = limiter.new_holder() if limiter.holds(policies) else ""
        charged = Charged(policies, _counted(context, scope), scope, holder)
        CHARGED.set(charged)
        caller, fields = charged.caller, context.fields
        try:
            if read is None:
                now = None
                if not is_asked:
                    now = limiter.check_now(policies, caller, request=scope, fields=fields, holder=holder)
                decision = now or await limiter.check(policies, caller, request=scope, fields=fields, holder=holder)
            else:
                decision, charged.cached = await limiter.enter(
                    policies, caller, read, request=scope, fields=fields, holder=holder
                )
        except BaseException:
            await self.end(charged)  # what was asked for may have been taken
            raise
        if not decision.allowed:
            charged.holder = ""
            return charged, self.refusal(decision)
        context.tell(decision, self)
        return charged, None

    async def end(self, charged: Charged) -> None:
        """Give back what was held at a time, and correct what the work cost."""
        holder, charged.holder = charged.holder, ""
        actual, charged.actual = charged.actual, None
        try:
            if holder:
                await self._limiter.release(charged.names, charged.caller, holder)
            for name, (taken, cost) in (actual or {}).items():
                await self._limiter.settle((name,), charged.caller, taken=taken, actual=cost)
        except StoreUnavailable:
            return  # the store has counted it as an error; what was held ends by itself

    def settle(self, policy: str, actual: int) -> None:
        """Say what the request in hand turned out to cost under one of its policies, for when its answer is out.

        Raises:
            NotRunning: outside a request that was charged.
            ConfigurationError: the request was not charged under this policy.
            ValueError: the cost is negative.
        """
        charged = CHARGED.get()
        if charged is None:
            raise NotRunning("there is no request here that was charged")
        if policy not in charged.names:
            raise ConfigurationError(f"the request was not charged under {policy!r}", remedy=f"of {charged.names}")
        if actual < 0:
            raise ValueError(f"the cost is {actual}, expected 0 or more")
        cost = self._limiter.table.require(policy).cost
        taken = cost(charged.request) if callable(cost) else cost
        charged.actual = {**(charged.actual or {}), policy: (taken, actual)}

    def _answer(self, context: RequestContext, decision: Decision) -> LimitExceeded | None:
        if not decision.allowed:
            return self.refusal(decision)
        context.response_headers += decision_headers(decision, self._dialect)
        return None

    async def charge_address(self, context: RequestContext) -> LimitExceeded | None:
        """Spend one failed authentication against the caller's address alone."""
        caller = Caller(address=context.client)
        return self._answer(context, await self._limiter.check(("public",), caller, fields=context.fields))

    async def enforce(self, policies: Sequence[str], caller: Caller, *, commit: bool, blame: Blame = "address") -> None:
        """Spend, or only look, on behalf of a handler.

        Args:
            blame: against whom a refusal counts; the caller's actor is whatever the handler says, so by default it is
                the address.

        Raises:
            LimitExceeded: a policy refuses; headers of an earlier decision do not stand beside its own.
        """
        decision = await self._limiter.check(policies, caller, commit=commit, blame=blame)
        if decision.allowed:
            return
        if not commit and not (decision.is_penalty or decision.is_denied):
            # Looking is no offence; asking for what is refused is, so it is asked for.
            decision = await self._limiter.check(policies, caller, blame=blame)
            if decision.allowed:  # something has come back in between
                await self._limiter.refund(policies, caller)
                return
        context = CONTEXT.get()
        if context is not None:
            context.response_headers[:] = [pair for pair in context.response_headers if pair[0] not in OURS]
        raise self.refusal(decision)

    async def decide(self, policies: Sequence[str], caller: Caller, *, cost: int = 1) -> Decision:
        """Spend on behalf of code that is no route, and return the whole answer; nobody is blamed."""
        return await self._limiter.check(policies, caller, cost=cost, blame="nobody")

    def headers(self, decision: Decision) -> Headers:
        """Return the fields that tell a client of a decision."""
        return decision_headers(decision, self._dialect)

    def lines(self, decision: Decision) -> bytes:
        """Return what `headers` returns, as it is written in an answer."""
        return decision_lines(decision, self._dialect)

    def refusal(self, decision: Decision) -> LimitExceeded:
        """Return a decision that refuses as the error that a client gets, and count it."""
        self._metrics.limit_exceeded(("penalty",) if decision.is_penalty else decision.violated)
        refusal = self._last
        if refusal is None or refusal.decision is not decision:
            refusal = self._last = Refusal(decision, self._upgrade_url, self._dialect)
        return LimitExceeded.of(refusal)


def _counted(context: RequestContext, scope: Scope) -> Caller:
    caller = caller_of(context)
    keyed = context.route.options.limit_keys
    return with_keys(caller, keys_of(keyed, HTTPConnection(scope))) if keyed else caller
