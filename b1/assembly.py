"""Which layers and endpoints a runtime has: what is switched on, and nothing else. The order stands in `b1.asgi.stack`."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from b1.asgi import stack
from b1.asgi.caching.signatures import require_seen
from b1.asgi.caching.surrogate import purged_keys
from b1.asgi.caching.warming import AnswerWarmer
from b1.asgi.context import RequestContext
from b1.asgi.endpoints.cache_stats import cache_stats
from b1.asgi.endpoints.caches import CACHE_PATH, CHECK_PATH, CacheDesk, CheckDesk, Purge
from b1.asgi.endpoints.caches import METHODS as CACHE_METHODS
from b1.asgi.endpoints.dashboard import dashboard_endpoint
from b1.asgi.endpoints.health import Health
from b1.asgi.endpoints.keys import KEYS_PATH, KeysDesk
from b1.asgi.endpoints.keys import METHODS as KEYS_METHODS
from b1.asgi.endpoints.limits import LIMITS_PATH, METHODS, LimitsDesk
from b1.asgi.express import Express
from b1.asgi.middleware.admission import Admission
from b1.asgi.middleware.cache import CacheLayer
from b1.asgi.middleware.cors import cors_layer
from b1.asgi.middleware.deadline import Deadline
from b1.asgi.middleware.guard import Guard
from b1.asgi.middleware.idempotency import IdempotencyMiddleware
from b1.asgi.middleware.identity import IdentityLayer
from b1.asgi.middleware.limiter import LimiterLayer
from b1.asgi.middleware.observe import Observe
from b1.asgi.middleware.probes import Answer, Endpoint, Probes, health_endpoints, json_endpoint, served
from b1.asgi.routes import RouteTable
from b1.factories import admission_options, reaches_all
from b1.runtime import Runtime
from b1.types import ASGIApp

# Charged by the profile itself: probes, and failed authentication.
_POLICIES_OF_OURS = ("health", "public")

_API_DOCS = frozenset({"/openapi.json", "/api-docs", "/docs", "/docs/oauth2-redirect", "/redoc"})


def build_stack(runtime: Runtime, routed: Any, inner: ASGIApp) -> ASGIApp:
    """Choose the layers that are on; their order stands in `b1.asgi.stack`.

    Raises:
        ConfigurationError: a route declares a policy that the table does not have.
    """
    settings, plan = runtime.settings, runtime.plan
    routes = RouteTable.of(routed)
    _require_policies(runtime, routes)
    limits = runtime.limits if settings.enable_rate_limiting else None
    layers: list[tuple[str, stack.Layer]] = [
        ("observe", partial(Observe, routes=routes, metrics=runtime.metrics, clock=runtime.clock)),
        (
            "probes",
            partial(
                Probes,
                endpoints=_endpoints(runtime),
                admin_token=settings.admin_token if settings.is_production else None,
                within_limit=runtime.within_health_limit,
                hidden=frozenset() if settings.enable_api_docs else _API_DOCS,
            ),
        ),
        (
            "guard",
            partial(
                Guard,
                body_limit_bytes=plan.body_limit_bytes,
                proxy=settings.proxy or "none",
                note_size=runtime.large_requests.note,
            ),
        ),
        (
            "admission",
            partial(
                Admission,
                is_running=runtime.is_running,
                gate=runtime.gate,
                options=admission_options(plan),
                deadline_s=plan.request_deadline_s,
                routes=routes,
            ),
        ),
        ("identity", partial(IdentityLayer, identity=runtime.identity, limits=limits)),
        ("deadline", _deadline(runtime)),
    ]
    if settings.cors_origins:
        layers.append(("cors", cors_layer(settings.cors_origins)))
    if limits is not None:
        responses = runtime.responses if settings.enable_caching else None
        layers.append(("limiter", partial(LimiterLayer, limits=limits, responses=responses)))
    if runtime.idempotency is not None:
        keyed = partial(
            IdempotencyMiddleware,
            service=runtime.idempotency,
            body_limit_bytes=plan.body_limit_bytes,
            permits=runtime.gate,
        )
        layers.append(("idempotency", keyed))
    if settings.enable_caching:
        runtime.responses.prepare(routes.declarations())
        require_seen(routed, runtime.responses.options)
        layers.append(("cache", partial(_cache_layer, runtime=runtime, routed=routed, routes=routes)))
    return stack.build(inner, layers)


def _cache_layer(app: ASGIApp, *, runtime: Runtime, routed: Any, routes: RouteTable) -> ASGIApp:
    """Put the cache around what it stores the answers of, and what warms it in between."""
    if runtime.warming.enabled:
        scheme = "https" if runtime.settings.proxy == "azure" else "http"
        answers = AnswerWarmer(runtime.responses, routes, saw=runtime.warming.saw, scheme=scheme)
        if hasattr(routed, "build_middleware_stack"):
            answers.like({"app": routed, "root_path": getattr(routed, "root_path", "")})
        runtime.warming.answers = answers
        app = answers.tap(app)
    return CacheLayer(app, responses=runtime.responses)


def build_express(runtime: Runtime, routed: Any) -> Express | None:
    """Return the short way for our own server; None where the layers do something that it does not know of."""
    settings = runtime.settings
    # An SDK that is loaded wants a span for each request, which the application makes.
    has_tracing = "opentelemetry.sdk" in sys.modules
    if not settings.enable_caching or has_tracing or bool(getattr(routed, "root_path", "")):
        return None
    return Express(
        routes=RouteTable.of(routed),
        gate=runtime.gate,
        identity=runtime.identity,
        limits=runtime.limits if settings.enable_rate_limiting else None,
        responses=runtime.responses,
        metrics=runtime.metrics,
        proxy=settings.proxy or "none",
        is_running=runtime.is_running,
        unusual=(b"origin",) if settings.cors_origins else (),
    )


def _deadline(runtime: Runtime) -> stack.Layer:
    default_s = runtime.plan.request_deadline_s
    return partial(Deadline, clock=runtime.clock, deadlines=runtime.deadlines, default_s=default_s)


def _require_policies(runtime: Runtime, routes: RouteTable) -> None:
    """Find a misspelt policy at start-up, not at its first request."""
    table = runtime.limiter.table
    for name in _POLICIES_OF_OURS:
        table.require(name)
    for route in routes.declarations():
        for name in route.options.limits or ():
            table.require(name)


def _endpoints(runtime: Runtime) -> dict[str, Endpoint]:
    settings = runtime.settings
    endpoints = health_endpoints(Health(runtime.state))
    endpoints.update(_cache_endpoints(runtime))
    if runtime.idempotency is not None:
        endpoints["/internal/idempotency-stats"] = json_endpoint(lambda: _idempotency_stats(runtime))
        endpoints[KEYS_PATH] = served(KeysDesk(runtime.idempotency), KEYS_METHODS)
    if settings.enable_rate_limiting:
        endpoints[LIMITS_PATH] = served(LimitsDesk(runtime.limiter), METHODS)
    if settings.enable_metrics:
        endpoints["/metrics"] = endpoints["/v1/system/metrics/prometheus"] = Endpoint(partial(_exposition, runtime))
    if settings.enable_dashboard:
        endpoints["/dashboard"] = dashboard_endpoint()
    return endpoints


def _exposition(runtime: Runtime, context: RequestContext) -> Answer:
    accept = context.fields.get(b"accept", b"").decode("latin-1")
    body, content_type = runtime.metrics.exposition(accept)
    return 200, content_type.encode(), body


def _cache_endpoints(runtime: Runtime) -> dict[str, Endpoint]:
    """Return what `b1 cache` talks to."""
    desk = CacheDesk(
        runtime.cache,
        runtime.l1,
        runtime.store.versions,
        runtime.clock,
        shared=runtime.cache.shared,
        purge=Purge(runtime.purge, purged_keys) if runtime.purge is not None else None,
        is_shared=reaches_all(runtime.store),
    )
    return {
        CACHE_PATH: served(desk, CACHE_METHODS),
        CHECK_PATH: served(CheckDesk(runtime.checker), frozenset({"GET", "HEAD"})),
        "/internal/cache-stats": json_endpoint(lambda: cache_stats(runtime.state(), runtime.l1.maps())),
    }


def _idempotency_stats(runtime: Runtime) -> dict[str, Any]:
    state, usage = runtime.state(), runtime.key_usage
    return {
        "idempotency": state.idempotency,
        "usage": usage.usage if usage is not None else None,
        "warnings": usage.warnings if usage is not None else (),
        "store": {"mode": state.store.mode, "connected": state.store.connected, "keys": state.store.keys,
                  "held_bytes": state.store.held_bytes},
    }  # fmt: skip
