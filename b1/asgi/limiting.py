"""Limits as an application writes them: on a route, as a dependency, or asked for by name in a WebSocket or a job.

A rate written inline becomes a policy like any other: the table grows while routes are declared, and is read when the
application starts. Its counter is named after the endpoint's module and name, so every instance counts it alike.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, TypeVar, get_args

from starlette.requests import HTTPConnection

from b1.asgi.callers import KeyOf, caller_of, caller_of_principal, keys_of, with_keys
from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.limits import LimitExceeded
from b1.asgi.options import declare, declared
from b1.asgi.rates import read_rate
from b1.errors import ConfigurationError, NotRunning
from b1.limiter import OURS, Caller, Decision, Policy, PolicyTable, Scope, client_address
from b1.types import Headers, Principal
from b1.types import Scope as ASGIScope

# A policy's name, a rate such as "100/minute", or a policy.
Limit = str | Policy
By = Scope | KeyOf
# Who spends: any text, a caller, a principal, a request or a WebSocket; None: whoever sent the request in hand.
Key = str | Caller | Principal | HTTPConnection | None
EndpointFunction = TypeVar("EndpointFunction", bound=Callable[..., Any])

_SCOPES: tuple[str, ...] = get_args(Scope)
_NO_NAME = re.compile(r"[^a-z0-9_-]+")
_NAME_LENGTH = 22  # leaves room for "-86400s" and "-99"


class Allowance(NamedTuple):
    """The limiter's answer to `allow` and `take`; true when allowed.

    Attributes:
        retry_after_s: at least 1 when refused, else 0.
        remaining: units left of the policy nearest to exhaustion; None while limits are switched off.
    """

    allowed: bool
    retry_after_s: int
    remaining: int | None

    def __bool__(self) -> bool:
        return self.allowed


class Charging(Protocol):
    """What decides, while the application runs: see `b1.asgi.limits.Limits`."""

    async def decide(self, policies: Sequence[str], caller: Caller, *, cost: int = 1) -> Decision: ...

    def headers(self, decision: Decision) -> Headers: ...

    def refusal(self, decision: Decision) -> LimitExceeded: ...


class Limiting:
    """The limits of one application: what its routes declare, and what its code asks for.

    Args:
        table: the policies that it starts with.
        charging: returns what decides; raises `NotRunning` while the application does not run. None: limits are off.
        proxy: returns how client addresses are found (`B1_PROXY`), for WebSockets.
    """

    def __init__(
        self, table: PolicyTable, *, charging: Callable[[], Charging | None], proxy: Callable[[], str] = lambda: "none"
    ) -> None:
        self.table = table
        self._charging = charging
        self._proxy = proxy
        self._dependencies: dict[tuple[str, ...], None] = {}

    def __repr__(self) -> str:
        return f"Limiting({self.table!r})"

    def limit(
        self, *limits: Limit, by: By | None = None, with_default: bool = False
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare what a route's requests spend, in one decision, instead of the default policies.

        Several decorators add up. Without any limit the handler itself spends what there is to spend.

        Args:
            limits: names of policies, rates, or policies; a rate counts this route alone.
            by: what rates count together, or what says so; default: actor and organisation, else the address. A callable
                applies to every policy named here.
            with_default: the application's default policies apply too.

        Raises:
            ConfigurationError: a rate cannot be read, or a policy differs from one of its name.
        """
        key_of = _check_by(by)

        def decorate(endpoint: EndpointFunction) -> EndpointFunction:
            names = tuple(self._named(limit, by, endpoint) for limit in limits)
            keys = tuple((name, key_of) for name in names) if key_of is not None else ()
            return _declare(endpoint, names, keys, with_default=with_default)

        return decorate

    def limited(self, *limits: Limit, by: By | None = None, cost: int = 1, name: str | None = None) -> Limited:
        """Return a dependency (``Depends(b1.limited("search"))``) that spends when its route runs, beside the route's own.

        Args:
            name: of the policy that a rate makes; needed when there is a rate, because a dependency has no route.

        Raises:
            ConfigurationError: as `limit`, or a rate comes without a name.
        """
        key_of = _check_by(by)
        names = tuple(self._of_dependency(limit, by, name) for limit in limits)
        if not names:
            raise ConfigurationError("limited() names no limit", remedy='such as b1.limited("search")')
        self._dependencies[names] = None
        return Limited(self, names, key_of, cost)

    def require_dependencies(self) -> None:
        """Find a misspelt policy of a `limited` at the start; the table is complete then.

        Raises:
            ConfigurationError: there is none of this name, or it limits concurrency, which a dependency cannot give back.
        """
        for names in self._dependencies:
            self._refuse_leases(names)

    async def take(self, limit: str | Sequence[str], key: Key = None, *, cost: int = 1) -> Allowance:
        """Spend, where no route does it: per message of a WebSocket, per job, per e-mail.

        Args:
            limit: the name of a policy, or several for one decision.
            key: who spends. A text is counted as such, whatever the policy counts; default: the sender of the request
                in hand.

        Raises:
            LimitExceeded: refused; unhandled in a request, the client gets the 429. ``retry_after`` says when to ask again.
            NotRunning: the application does not run, or there is neither a key nor a request.
            ConfigurationError: no policy of this name.
        """
        allowance, decision = await self._ask(limit, key, cost)
        if decision is not None and not decision.allowed:
            raise self._refusal(decision)
        return allowance

    async def allow(self, limit: str | Sequence[str], key: Key = None, *, cost: int = 1) -> Allowance:
        """Do what `take` does and say what came of it instead of raising: ``if not await b1.allow(...): return``.

        Raises:
            NotRunning, ConfigurationError: as `take`.
        """
        return (await self._ask(limit, key, cost))[0]

    async def spend(self, names: tuple[str, ...], key_of: KeyOf | None, cost: int, connection: HTTPConnection) -> None:
        """Spend on behalf of a dependency; the answer shows the policy nearest to exhaustion of all that were asked."""
        charging = self._charging()
        if charging is None:
            return
        self._refuse_leases(names)
        context: RequestContext | None = connection.scope.get("b1")
        caller = self._caller(connection)
        if key_of is not None:
            caller = with_keys(caller, keys_of(((name, key_of) for name in names), connection))
        decision = await charging.decide(names, caller, cost=cost)
        if context is not None:
            show(context.response_headers, decision, charging.headers(decision))
        if not decision.allowed:
            raise charging.refusal(decision)

    async def _ask(self, limit: str | Sequence[str], key: Key, cost: int) -> tuple[Allowance, Decision | None]:
        charging = self._charging()
        names = (limit,) if isinstance(limit, str) else tuple(limit)
        self._refuse_leases(names)  # a misspelt name fails in development too, where limits may be switched off
        if charging is None:
            return Allowance(True, 0, None), None
        caller = self._caller(key)
        if isinstance(key, str):
            caller = with_keys(caller, tuple((name, key) for name in names))
        decision = await charging.decide(names, caller, cost=cost)
        remaining = None if decision.nearest is None else decision.nearest.remaining
        return Allowance(decision.allowed, decision.retry_after_s, remaining), decision

    def _refuse_leases(self, names: Sequence[str]) -> None:
        for name in names:
            if self.table.require(name).kind == "lease":
                raise ConfigurationError(
                    f"policy {name!r} limits concurrency and somebody has to give back what it counts",
                    remedy=f'declare it on a route: @b1.limit("{name}")',
                )

    def _refusal(self, decision: Decision) -> LimitExceeded:
        charging = self._charging()
        assert charging is not None
        return charging.refusal(decision)

    def _caller(self, key: Key) -> Caller:
        if isinstance(key, Caller):
            return key
        if isinstance(key, Principal):
            return caller_of_principal(key, _present_address())
        if isinstance(key, str):
            return Caller(_present_address())
        if key is not None:
            context: RequestContext | None = key.scope.get("b1")
            return Caller(self._address(key.scope)) if context is None else caller_of(context)
        context = CONTEXT.get()
        if context is None:
            raise NotRunning("there is no request here: say who spends, such as take(name, key)")
        return caller_of(context)

    def _address(self, scope: ASGIScope) -> str:
        peer = scope.get("client")
        return client_address(peer[0] if peer else None, scope["headers"], self._proxy())

    def _named(self, limit: Limit, by: By | None, endpoint: Any) -> str:
        if isinstance(limit, Policy):
            return self._add(limit)
        if limit in self.table or not _looks_like_a_rate(limit):
            return limit  # whether the table has it is asked at the start, when it is complete
        name = _NO_NAME.sub("-", str(getattr(endpoint, "__name__", "route")).lower()).strip("-_")[:_NAME_LENGTH]
        where = f"{getattr(endpoint, '__module__', '')}.{getattr(endpoint, '__qualname__', name)}"
        return self._add_rate(limit, by, name or "route", where)

    def _of_dependency(self, limit: Limit, by: By | None, name: str | None) -> str:
        if isinstance(limit, Policy):
            return self._add(limit)
        if limit in self.table or not _looks_like_a_rate(limit):
            return limit
        if name is None:
            raise ConfigurationError(
                f"limited({limit!r}) makes a policy without a name", remedy='add one, such as name="exports"'
            )
        return self._add(_policy(name, limit, by, counter=None))

    def _add_rate(self, text: str, by: By | None, stem: str, where: str) -> str:
        rate = read_rate(text)
        counted = by if isinstance(by, str) else "key" if by is not None else ""
        digest = blake2b(f"{where}\0{rate.window_s}\0{counted}".encode(), digest_size=8).hexdigest()
        wanted = stem = f"{stem}-{rate.window_s}s"
        number = 1
        while True:
            policy = _policy(wanted, text, by, counter=f"route-{digest}")
            if self.table.get(wanted, policy) == policy:
                return self._add(policy)
            number += 1
            wanted = f"{stem}-{number}"

    def _add(self, policy: Policy) -> str:
        present = self.table.get(policy.name)
        if present is None:
            self.table = self.table.with_policies(policy)
        elif present != policy:
            raise ConfigurationError(
                f"policy {policy.name!r} is in the table and differs", remedy="give this one a name of its own"
            )
        return policy.name


class Limited:
    """A dependency of FastAPI that spends; also for WebSocket routes, where a refusal is a 429 before the handshake."""

    def __init__(self, limiting: Limiting, names: tuple[str, ...], key_of: KeyOf | None, cost: int) -> None:
        self.names = names
        self._limiting = limiting
        self._key_of = key_of
        self._cost = cost
        # FastAPI reads the annotation; as text it could not be resolved on an instance.
        parameter = inspect.Parameter("connection", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)
        self.__signature__ = inspect.Signature([parameter])

    def __repr__(self) -> str:
        return f"Limited({', '.join(self.names)})"

    async def __call__(self, connection: HTTPConnection) -> None:
        await self._limiting.spend(self.names, self._key_of, self._cost, connection)


def show(headers: Headers, decision: Decision, told: Headers) -> None:
    """Have an answer's headers tell of the policy nearest to exhaustion, of this decision or one before it.

    Of a refusal the error carries the headers itself; none of an earlier decision may stand beside them.

    Args:
        told: the fields of this decision.
    """
    if decision.allowed:
        before = next((value for name, value in headers if name == b"x-ratelimit-remaining"), None)
        is_nearer = decision.nearest is not None and (before is None or decision.nearest.remaining < int(before))
        if not is_nearer:
            return
    headers[:] = [pair for pair in headers if pair[0] not in OURS]
    if decision.allowed:
        headers += told


def _present_address() -> str:
    context = CONTEXT.get()
    return context.client if context is not None else "unknown"


def _declare(
    endpoint: EndpointFunction, names: tuple[str, ...], keys: tuple[tuple[str, KeyOf], ...], *, with_default: bool
) -> EndpointFunction:
    before = declared(endpoint)
    return declare(
        endpoint,
        limits=tuple(dict.fromkeys(names + (before.limits or ()))),
        limit_keys=keys + before.limit_keys,
        with_default_limits=with_default or before.with_default_limits,
    )


def _check_by(by: By | None) -> KeyOf | None:
    if by is None or by in _SCOPES:
        return None
    if not callable(by):
        raise ConfigurationError(
            f"by is {by!r}", remedy=f"use one of {', '.join(_SCOPES)}, or a callable that takes the request"
        )
    return by


def _looks_like_a_rate(text: str) -> bool:
    """A policy's name has neither a slash nor a space, and begins with a letter wherever somebody wrote it by hand."""
    return not re.fullmatch(r"[a-z_][a-z0-9_-]*", text)


def _policy(name: str, text: str, by: By | None, *, counter: str | None) -> Policy:
    rate = read_rate(text)
    scope: Scope = by if isinstance(by, str) else "actor" if by is not None else "actor+organization"
    policy = Policy(name, rate.quota, rate.window_s, scope=scope, counter=counter)
    if rate.burst:
        policy = replace(policy, **rate.shape())
    return policy
