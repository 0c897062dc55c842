"""`B1`: the profile, installed in an application. What an application author touches.

    app = FastAPI()
    b1 = B1(app)          # outermost, lifespan included; everything else comes from the environment

A fresh runtime is built for every lifespan, so that an application can be started more than once in a process (tests do).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from b1.asgi.express import EXPRESS_STATE
from b1.asgi.handlers import install_handlers
from b1.asgi.inside import has_profile_inside
from b1.asgi.late_start import LateStart
from b1.asgi.lifespan import Lifespan, Services
from b1.asgi.limiting import Limiting
from b1.asgi.limits import DefaultPolicies, Limits, policies_by_method
from b1.asgi.openapi import describe_idempotency
from b1.asgi.options import declare
from b1.assembly import build_express, build_stack
from b1.cache import Warmups
from b1.declarations import Declarations
from b1.errors import ConfigurationError
from b1.factories import make_token_secret
from b1.host import read_host
from b1.idempotency import IdempotencyOptions, plain_transaction
from b1.identity import Resolver
from b1.identity.identity import principal_from_claims
from b1.limiter import DEFAULT_POLICIES, PolicyTable
from b1.plan import make_plan
from b1.runtime import Runtime
from b1.settings import Settings
from b1.types import ASGIApp, Receive, Scope, Send
from b1.using import Using, request_in_hand

if TYPE_CHECKING:
    from b1.alerts import Severity
    from b1.cache import Rules
    from b1.idempotency import Transaction
    from b1.purge import Adapter

AlertHandler = TypeVar("AlertHandler", bound=Callable[..., Any])
EndpointFunction = TypeVar("EndpointFunction", bound=Callable[..., Any])


class B1(Declarations, Using):
    """The deployment profile of one application.

    Args:
        app: installs itself at once; without it, call `install` later (so that modules can share the object first).
        principal: resolves verified claims to a `Principal`; default: actor, organisation, role and tier from the token.
        policies: the limiter's table; default: the table of docs/reference/limiter.md.
        default_policies: names the policies of routes that declare none; default: read, write and delete by method.
        anonymous_policies: for callers without a principal on routes whose policies count principals; default: such
            callers are counted by address under those policies.
        rules: what a write invalidates; see `changed`.
        purge: takes what was invalidated to the CDN in front: an adapter of `b1.purge`.
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
        rules: Rules | None = None,
        purge: Adapter | None = None,
        upgrade_url: str = "/api-docs",
        settings: Settings | None = None,
    ) -> None:
        self._principal = principal
        self.limiting = Limiting(policies, charging=self._charging, proxy=lambda: self._read_settings().proxy or "none")
        self.default_policies = default_policies
        self.anonymous_policies = anonymous_policies
        self._upgrade_url = upgrade_url
        self._settings = settings
        self._rules = rules
        self.warming = Warmups()
        self._purge = purge
        self._runtime = None
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
            rules=self._rules,
            warmups=self.warming,
            purge=self._purge,
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
        attempt = request_in_hand().attempt
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
        attempt = request_in_hand().attempt
        if attempt is None:
            return plain_transaction(self._profile.db)
        transaction: AbstractAsyncContextManager[Transaction] = attempt.transaction()
        return transaction


# Where a scope says whose request it is: an application with a profile, mounted in another one, leaves it to that one's.
_SERVED_BY = "b1.served_by"


class _Installed:
    """The ASGI application that the server calls: builds the stack at start-up, and again for every lifespan."""

    def __init__(self, profile: B1, routed: Any, inner: ASGIApp) -> None:
        self._profile = self.__b1__ = profile
        self._routed = routed
        self._inner = inner
        self._app: ASGIApp | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # where the lifespan ran, or services were started late
        self._late = LateStart(self._begin_late, self._end_late)
        self._before_late: tuple[ASGIApp | None, asyncio.AbstractEventLoop | None, Runtime | None] = (None, None, None)
        self._is_starlette = hasattr(routed, "build_middleware_stack")
        self._root_path: str = getattr(routed, "root_path", "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_starlette:
            # What the application's own __call__ does before this stack, for the server that calls the stack directly.
            scope["app"] = self._routed
            if self._root_path:
                scope["root_path"] = self._root_path
        if scope["type"] == "lifespan":
            runtime = self._build()
            state = scope.get("state", {})
            if EXPRESS_STATE not in state:  # the outermost's: what stands around an inner one must not be passed by
                state[EXPRESS_STATE] = build_express(runtime, self._routed)
            await Lifespan(self._inner, runtime)(scope, receive, send)
            return
        if self._loop is not asyncio.get_running_loop():
            outer: B1 | None = scope.get(_SERVED_BY)
            if outer is not None:
                self._profile._runtime = outer._runtime
            if outer is not None or "b1" in scope:  # the second: an answer that the outer one's cache makes for nobody
                await self._inner(scope, receive, send)
                return
            await self._late.started()
        app = self._app
        assert app is not None
        scope[_SERVED_BY] = self._profile
        await app(scope, receive, send)

    def _build(self) -> Runtime:
        runtime = self._profile._new_runtime()
        self._profile.limiting.require_dependencies()
        self._app = build_stack(runtime, self._routed, self._inner)
        self._loop = asyncio.get_running_loop()
        return runtime

    def _begin_late(self) -> Services:
        profile = self._profile
        settings = profile._read_settings()
        if settings.auth_jwt_secret is None:  # a token of one request has to be good in the next, in another loop
            profile.use(replace(settings, auth_jwt_secret=make_token_secret(settings)))
        self._before_late = self._app, self._loop, profile._runtime
        return self._build()

    def _end_late(self, services: Services) -> None:
        if self._profile._runtime is services:
            self._app, self._loop, self._profile._runtime = self._before_late


def _called_as_it_is(app: ASGIApp) -> ASGIApp:
    """Return an application that stands around one with a profile, such as ``CORSMiddleware(app)``."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope.setdefault("state", {}).setdefault(EXPRESS_STATE, None)  # the short way would pass it by
        await app(scope, receive, send)

    return called


def ensure_wrapped(app: Any) -> ASGIApp:
    """Return what our server calls: `app` with its own profile, wherever in it, or with a default one when it has none.

    For FastAPI that is the stack and not the application: FastAPI's `__call__` asks OpenTelemetry for its providers at
    every request (5 us, also when nothing is configured). With the SDK loaded the application is called as it is.
    """
    if isinstance(app, _Installed):
        return app
    if not hasattr(app, "build_middleware_stack"):
        return _called_as_it_is(app) if has_profile_inside(app) else B1().wrap(app)
    if getattr(app, "__b1__", None) is None:
        B1(app)
    if "opentelemetry.sdk" in sys.modules:
        application: ASGIApp = app
        return application
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    built: ASGIApp = app.middleware_stack
    return built
