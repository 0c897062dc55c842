"""What the signature of a cached handler asks for, held against what such a handler gets to see; once, at the start.

A header, cookie or query parameter that is neither in the key nor passed is taken away from the request, so the parameter
would be empty for ever: an `Accept-Language` that always is the default, a session that nobody has. Dependencies count,
those of routers and of the application too. What a handler reads from `Request` itself cannot be seen from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.plan import RoutePlan
from b1.asgi.options import declared
from b1.asgi.routes import Route
from b1.errors import ConfigurationError

_SHOWN = 8


class _Part(NamedTuple):
    """A part of the request that a signature asks for.

    Attributes:
        names: under which it may come, in the request's writing; one of them is enough.
        asker: the function that asks, as people call it.
    """

    kind: str
    names: tuple[str, ...]
    asker: str


def require_seen(app: Any, settings: ResponseCacheOptions) -> None:
    """Check all cached routes of a FastAPI application; another application declares nothing that could be checked.

    Raises:
        ConfigurationError: a signature asks for what its route's `b1.cached` takes away; all of them are named.
    """
    found = list(dict.fromkeys(_unseen(getattr(app, "routes", ()), settings, prefix="")))
    if not found:
        return
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ConfigurationError(
        "handlers behind b1.cached ask for what they never see: "
        + "; ".join(f"{template} asks for {what}" for template, what in found[:_SHOWN])
        + more,
        remedy="name a header in vary_headers=(…) where the answer depends on it, in pass_headers=(…) where it does not; "
        'a query parameter in query=(…); all cookies are the header "cookie"',
    )


def _unseen(routes: Iterable[Any], settings: ResponseCacheOptions, *, prefix: str) -> Iterator[tuple[str, str]]:
    from fastapi.routing import iter_route_contexts
    from starlette.routing import Mount

    for context in iter_route_contexts(list(routes)):
        if context.path is None:
            continue
        template = prefix + context.path
        if isinstance(context.original_route, Mount):
            yield from _unseen(getattr(context.original_route, "routes", None) or (), settings, prefix=template)
            continue
        options = declared(context.endpoint)
        dependant = getattr(context, "dependant", None)
        if options.cache is None or dependant is None or "GET" not in (context.methods or ()):
            continue
        plan = RoutePlan(Route(template, options), options.cache, settings)
        for part in _parts(dependant, context.endpoint):
            if not any(_is_seen(plan, part.kind, name) for name in part.names):
                yield template, f"the {part.kind} {' or '.join(map(repr, part.names))} (in {part.asker})"


def _is_seen(plan: RoutePlan, kind: str, name: str) -> bool:
    if kind == "query parameter":
        return plan.sees_parameter(name)
    return plan.sees_header("cookie" if kind == "cookie" else name)


def _parts(dependant: Any, asker: Any) -> Iterator[_Part]:
    """Yield what a dependant and all below it ask for."""
    name = getattr(asker, "__qualname__", None) or type(asker).__name__
    for kind, fields in (
        ("header", dependant.header_params),
        ("cookie", dependant.cookie_params),
        ("query parameter", dependant.query_params),
    ):
        for field, info in _flat(fields):
            yield _Part(kind, _names(field, info, is_header=kind == "header"), name)
    model = getattr(asker, "model", None)  # of a security scheme, which reads the request by itself
    place = getattr(getattr(model, "in_", None), "value", None)
    if place in ("header", "cookie", "query"):
        written = str(getattr(model, "name", ""))
        kind = "query parameter" if place == "query" else place
        yield _Part(kind, (written.lower() if place == "header" else written,), name)
    for below in dependant.dependencies:
        yield from _parts(below, below.call)


def _flat(fields: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and descriptions of parameters; those of a model in the place of a single one."""
    for field in fields:
        annotation = field.field_info.annotation
        models = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
        inner = next((one.model_fields for one in models if hasattr(one, "model_fields")), None)
        if inner is not None:
            yield from inner.items()
        else:
            yield field.name, field.field_info


def _names(field: str, info: Any, *, is_header: bool) -> tuple[str, ...]:
    chosen = info.validation_alias or info.alias
    written = field.replace("_", "-") if is_header and getattr(info, "convert_underscores", True) else field
    if isinstance(chosen, str):
        return (chosen.lower() if is_header else chosen,)
    choices = getattr(chosen, "choices", None)
    texts = [choice for choice in choices or () if isinstance(choice, str)] or [written]
    return tuple(text.lower() if is_header else text for text in texts)
