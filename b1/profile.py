"""`B1`: the profile, installed in an application. What an application author touches.

    app = FastAPI()
    b1 = B1(app)          # outermost, lifespan included; everything else comes from the environment

A fresh runtime is built for every lifespan, so that an application can be started more than once in a process (tests do).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.handlers import install_handlers
from b1.asgi.lifespan import Lifespan
from b1.asgi.limiting import Allowance, Key, Limiting
from b1.asgi.limits import DefaultPolicies, Limits, policies_by_method
from b1.asgi.openapi import describe_idempotency
from b1.asgi.options import declare
from b1.assembly import build_stack
from b1.declarations import Declarations
from b1.errors import ConfigurationError, DatabaseUnavailable, NotRunning, Unauthenticated
from b1.host import read_host
from b1.idempotency import IdempotencyOptions, plain_transaction
from b1.identity import Resolver, Tokens
from b1.identity.identity import principal_from_claims
from b1.limiter import DEFAULT_POLICIES, Caller, PolicyTable
from b1.plan import make_plan
from b1.runtime import Runtime
from b1.settings import Settings
from b1.types import ASGIApp, Principal, Receive, Scope, Send

if TYPE_CHECKING:
    from b1.alerts import Alerts, Severity
    from b1.cache import Cache
    from b1.db import Database
    from b1.governor import Governor
    from b1.idempotency import Transaction

AlertHandler = TypeVar("AlertHandler", bound=Callable[..., Any])
EndpointFunction = TypeVar("EndpointFunction", bound=Callable[..., Any])


class B1(Declarations):
    """The deployment profile of one application.

    Args:
        app: installs itself at once; without it, call `install` later (so that modules can share the object first).
        principal: resolves verified claims to a `Principal`; default: actor, organisation, role and tier from the token.
        policies: the limiter's table; default: the table of docs/reference/limiter.md.
        default_policies: names the policies of routes that declare none; default: read, write and delete by method.
        anonymous_policies: for callers without a principal on routes whose policies count principals; default: such
            callers are counted by address under those policies.
        settings: default: from the environment, read when the profile is installed.

    Raises:
        ConfigurationError: the environment asks for something impossible; the message names the variable and the remedy.
    """

    def __init__(
        self,
        app: Any = None,
        *,
        principal: Resolver = principal_from_claims,
        policies: PolicyTable = DEFAULT_POLICIES,
        default_policies: DefaultPolicies = policies_by_method,
        anonymous_policies: tuple[str, ...] | None = None,
        upgrade_url: str = "/api-docs",
        settings: Settings | None = None,
    ) -> None:
        self._principal = principal
        self.limiting = Limiting(policies, charging=self._charging, proxy=lambda: self._read_settings().proxy or "none")
        self.default_policies = default_policies
        self.anonymous_policies = anonymous_policies
        self._upgrade_url = upgrade_url
        self._settings = settings
        self._runtime: Runtime | None = None
        self._alert_handlers: list[tuple[Severity | None, bool, Any]] = []
        self.idempotent = Idempotent(self)
        if app is not None:
            self.install(app)

    def __repr__(self) -> str:
        return f"<B1 {self._runtime!r}>"

    # Installing

    def install(self, app: Any) -> None:
        """Put the profile around a FastAPI or Starlette application, outside everything it has or will get.

        Raises:
            ConfigurationError: the application is none of the two (use `wrap`), or has a profile already.
        """
        if not hasattr(app, "build_middleware_stack"):
            raise ConfigurationError(
                f"{type(app).__name__} is no FastAPI or Starlette application", remedy="use b1.wrap(app)"
            )
        if getattr(app, "__b1__", None) is not None:
            raise ConfigurationError("the application has a b1 profile already", remedy="create B1(app) once")
        settings = self._read_settings()
        app.__b1__ = self
        install_handlers(app)
        if settings.enable_idempotency and hasattr(app, "openapi"):
            describe_idempotency(app, settings.idempotency_mismatch_status)
        build_inner = app.build_middleware_stack
        app.build_middleware_stack = lambda: _Installed(self, app, build_inner())

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return any ASGI application with the profile around it."""
        self._read_settings()
        return _Installed(self, app, app)

    def on_alert(
        self, severity: Severity | None = None, *, also_resolved: bool = False
    ) -> Callable[[AlertHandler], AlertHandler]:
        """Call the decorated function, plain or async, with each alert that fires; of one severity, or of both.

        Args:
            severity: ``warning`` or ``critical``.
            also_resolved: call it for the end of an alert too.
        """

        def register(handler: AlertHandler) -> AlertHandler:
            self._alert_handlers.append((severity, also_resolved, handler))
            return handler

        return register

    def use(self, settings: Settings) -> None:
        """Take these settings from the next start on, instead of the environment's; for tests and embedding."""
        self._settings = settings

    # Using, while the application runs

    @property
    def runtime(self) -> Runtime:
        """The services of this worker.

        Raises:
            NotRunning: the application's lifespan has not started.
        """
        if self._runtime is None:
            raise NotRunning("b1 is not running: its services exist from the application's start-up to its shutdown")
        return self._runtime

    @property
    def db(self) -> Database:
        """The database within its budget.

        Raises:
            DatabaseUnavailable: no DATABASE_URL; the client gets 503 and says what is missing.
        """
        database = self.runtime.database
        if database is None:
            raise DatabaseUnavailable("no database is configured: set DATABASE_URL")
        return database

    @property
    def cache(self) -> Cache:
        """The data cache: `get_or_load` and `invalidate`."""
        return self.runtime.cache

    @property
    def alerts(self) -> Alerts:
        """Alerts of the application's own: `fire` and `resolve`."""
        return self.runtime.alerts

    @property
    def governor(self) -> Governor:
        """The resource governor: `register` what can give memory back, and `on_level` to hear of pressure."""
        return self.runtime.governor

    @property
    def tokens(self) -> Tokens:
        """Issues access tokens signed with AUTH_JWT_SECRET."""
        return self.runtime.tokens

    def principal(self) -> Principal:
        """Return who is calling.

        Raises:
            Unauthenticated: nobody; the caller gets 401.
        """
        principal = _context().principal
        if principal is None:
            raise Unauthenticated
        return principal

    def client_address(self) -> str:
        """Return the caller's network address, as far as the trusted proxies say."""
        return _context().client

    def forget_principal(self, actor: str) -> None:
        """Look an actor up again at the next request: call it after a change of membership or role."""
        self.runtime.identity.forget(actor)

    async def enforce(self, policies: Sequence[str], caller: Caller, *, commit: bool = True) -> None:
        """Spend from policies on behalf of a handler; with ``commit=False`` only look.

        Raises:
            RateLimited: a policy refuses; the caller gets the 429 with all its headers.
        """
        if self.runtime.settings.enable_rate_limiting:
            await self.runtime.limits.enforce(policies, caller, commit=commit)

    async def take(self, limit: str | Sequence[str], key: Key = None, *, cost: int = 1) -> Allowance:
        """Spend on behalf of a WebSocket message or a job; `RateLimited` when refused. See `Limiting.take`."""
        return await self.limiting.take(limit, key, cost=cost)

    async def allow(self, limit: str | Sequence[str], key: Key = None, *, cost: int = 1) -> Allowance:
        """Do what `take` does, and say what came of it instead of raising."""
        return await self.limiting.allow(limit, key, cost=cost)

    def _charging(self) -> Limits | None:
        return self.runtime.limits if self.runtime.settings.enable_rate_limiting else None

    def _read_settings(self) -> Settings:
        if self._settings is None:
            self._settings = Settings.from_env(os.environ)
        return self._settings

    def _new_runtime(self) -> Runtime:
        settings = self._read_settings()
        host = read_host(os.environ)
        self._runtime = Runtime(
            settings,
            host,
            make_plan(host, settings),
            resolve=self._principal,
            policies=self.limiting.table,
            default_policies=self.default_policies,
            anonymous_policies=self.anonymous_policies,
            upgrade_url=self._upgrade_url,
        )
        for severity, also_resolved, handler in self._alert_handlers:
            self._runtime.alerts.on_alert(severity, also_resolved=also_resolved)(handler)
        return self._runtime


class Idempotent:
    """``@b1.idempotent(required=True)`` on a route, ``b1.idempotent.transaction()`` in its handler."""

    def __init__(self, profile: B1) -> None:
        self._profile = profile

    def __call__(
        self, *, required: bool = False, transactional: bool = False, **options: Any
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare that the route honours idempotency keys; see `IdempotencyOptions`.

        Args:
            required: a request without a key is refused.
            transactional: a promise that the handler makes all its effects in `transaction`. Then Postgres alone
                decides who runs, and a key whose owner died is taken over at once.
        """
        chosen = IdempotencyOptions(required=required, transactional=transactional, **options)
        return partial(declare, idempotency=chosen)

    def key_for(self, step: str) -> str:
        """Return a key for a call to another service: the same in every try of this request, and in no other.

        Raises:
            ConfigurationError: the request has no key (declare ``required=True``).
        """
        attempt = _context().attempt
        if attempt is None:
            raise ConfigurationError("this request has no Idempotency-Key", remedy="declare required=True on its route")
        key: str = attempt.key_for(step)
        return key

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open the transaction in which effect and idempotency record commit together, when the answer is known.

        A request without a key gets a plain transaction, which commits at the end of the block.

        Raises:
            NotRunning: outside a request.
            DatabaseUnavailable: no DATABASE_URL.
        """
        attempt = _context().attempt
        if attempt is None:
            return plain_transaction(self._profile.db)
        transaction: AbstractAsyncContextManager[Transaction] = attempt.transaction()
        return transaction


class _Installed:
    """The ASGI application that the server calls: builds the stack at start-up, and again for every lifespan."""

    def __init__(self, profile: B1, routed: Any, inner: ASGIApp) -> None:
        self._profile = profile
        self._routed = routed
        self._inner = inner
        self._app: ASGIApp | None = None
        self._is_starlette = hasattr(routed, "build_middleware_stack")
        self._root_path: str = getattr(routed, "root_path", "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_starlette:
            # What the application's own __call__ does before this stack, for the server that calls the stack directly.
            scope["app"] = self._routed
            if self._root_path:
                scope["root_path"] = self._root_path
        if self._app is None or scope["type"] == "lifespan":
            runtime = self._profile._new_runtime()
            self._app = build_stack(runtime, self._routed, self._inner)
            if scope["type"] == "lifespan":
                await Lifespan(self._inner, runtime)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def ensure_wrapped(app: Any) -> ASGIApp:
    """Return what our server calls: `app` with its own profile, or with a default one when it has none.

    For FastAPI that is the stack and not the application: FastAPI's `__call__` asks OpenTelemetry for its providers at
    every request (5 us, also when nothing is configured). With the SDK loaded the application is called as it is.
    """
    if isinstance(app, _Installed):
        return app
    if not hasattr(app, "build_middleware_stack"):
        return B1().wrap(app)
    if getattr(app, "__b1__", None) is None:
        B1(app)
    if "opentelemetry.sdk" in sys.modules:
        application: ASGIApp = app
        return application
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    built: ASGIApp = app.middleware_stack
    return built


def _context() -> RequestContext:
    context = CONTEXT.get()
    if context is None:
        raise NotRunning("there is no request here")
    return context
