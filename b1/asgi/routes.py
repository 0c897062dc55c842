"""Which route will answer, known before routing: for limits, idempotency, caching and bounded metric labels.

Static paths are one dictionary look-up; paths with parameters are tried in declaration order, as the router will.
The router still decides what runs: when it finds nothing, the answer carries the template `UNMATCHED`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from b1.asgi.options import NOTHING_DECLARED, RouteOptions, declared

UNMATCHED = "unmatched"


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One template and what it declares. `eq=False`: routes are dictionary keys by identity, so a table makes each once.

    `in_thread`: its endpoint is a plain function, which the framework runs in a thread.
    """

    template: str
    options: RouteOptions = NOTHING_DECLARED
    in_thread: bool = False


NO_ROUTE = Route(UNMATCHED)


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    methods: frozenset[str] | None
    route: Route
    other: Route  # for the methods that it does not have


class RouteTable:
    """Finds the route of a request; built once, when the stack is built."""

    def __init__(self, entries: Iterable[tuple[str, frozenset[str] | None, Route, re.Pattern[str] | None]]) -> None:
        self._static: dict[str, dict[str | None, Route]] = {}
        self._others: dict[str, Route] = {}  # for the methods that a static path does not have
        self._patterns: list[_Pattern] = []
        for path, methods, route, regex in entries:
            if regex is not None:
                self._patterns.append(_Pattern(regex, methods, route, Route(route.template)))
            elif not self._shadowed(path, methods):
                for method in methods or (None,):
                    self._static.setdefault(path, {}).setdefault(method, route)
                self._others.setdefault(path, Route(route.template))

    def __repr__(self) -> str:
        return f"<RouteTable static={len(self._static)} patterns={len(self._patterns)}>"

    @classmethod
    def of(cls, app: Any) -> RouteTable:
        """Read the routes of a FastAPI or Starlette application; any other ASGI application has none."""
        return cls(_entries(getattr(app, "routes", ()), prefix=""))

    def declarations(self) -> Iterator[Route]:
        """Yield every route that was read, for checks at start-up."""
        for by_method in self._static.values():
            yield from by_method.values()
        yield from (pattern.route for pattern in self._patterns)

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """Return the route and its path values as text; `NO_ROUTE` when none matches."""
        by_method = self._static.get(path)
        if by_method is not None:
            route = by_method.get(method) or by_method.get(None)
            if route is not None:
                return route, {}
        other: Route | None = None
        for pattern in self._patterns:
            match = pattern.regex.match(path)
            if match is None:
                continue
            if pattern.methods is None or method in pattern.methods:
                return pattern.route, match.groupdict()
            other = other or pattern.other
        if by_method is not None:
            return self._others[path], {}
        return other or NO_ROUTE, {}

    def _shadowed(self, path: str, methods: frozenset[str] | None) -> bool:
        """Say whether a parametrised route declared earlier takes this static path; the router would choose it."""
        return any(
            pattern.regex.match(path)
            and (pattern.methods is None or (methods is not None and methods <= pattern.methods))
            for pattern in self._patterns
        )


def _entries(
    routes: Iterable[Any], *, prefix: str
) -> Iterator[tuple[str, frozenset[str] | None, Route, re.Pattern[str] | None]]:
    from fastapi.routing import iter_route_contexts
    from starlette.routing import Mount, compile_path

    for context in iter_route_contexts(list(routes)):
        path = context.path
        if path is None:
            continue
        template = prefix + path
        if isinstance(context.original_route, Mount):
            if isinstance(getattr(context.original_route, "routes", None), list) and context.original_route.routes:
                yield from _entries(context.original_route.routes, prefix=template)
            else:
                yield template, None, Route(f"{template}/*"), re.compile(re.escape(template) + "(?:/|$)")
            continue
        methods = frozenset(context.methods) if context.methods else None
        route = Route(template, declared(context.endpoint), in_thread=_runs_in_thread(context.endpoint))
        yield template, methods, route, compile_path(template)[0] if "{" in template else None


def _runs_in_thread(endpoint: Any) -> bool:
    """Say whether the framework will call this endpoint in a thread; a class is an ASGI application of its own."""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    return inspect.isroutine(endpoint) and not inspect.iscoroutinefunction(endpoint)
