"""What of a request makes its answer: the key under which it is kept, its tags, and what the handler gets to see.

One rule holds the cache together: *a stored answer depends on nothing that is not in its key.* What is not in the key
(Host, X-Forwarded-*, cookies, unknown parameters …) is taken away from the request before the handler runs, so there is
nothing to poison. Every part of a key is preceded by its length: no text in one part can pass for the beginning of another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from b1.asgi.caching.directives import elements
from b1.cache.names import checked_tag, tags_of
from b1.errors import ConfigurationError
from b1.types import Headers, Principal, Scope

if TYPE_CHECKING:
    from b1.asgi.caching.options import ResponseCacheOptions
    from b1.asgi.context import RequestContext
    from b1.asgi.options import CacheOptions
    from b1.asgi.routes import Route

# Who calls is in the key, tracing never shows in an answer, and a body's description belongs to the body.
_ALWAYS_SEEN = frozenset(
    {b"x-request-id", b"traceparent", b"tracestate", b"baggage", b"content-type", b"content-length"}
)
_OF_THE_CALLER = frozenset({b"authorization", b"x-organization-id"})
_PARAMETER = re.compile(r"\{([^{}:]+)(?::[^{}]*)?\}")
_QUERIES_REMEMBERED = 256
_QUERY_REMEMBERED_BYTES = 256
_ORIGIN = b"origin"
_HOST = b"host"


class RoutePlan:
    """What a route declared, prepared for its requests.

    Raises:
        ConfigurationError: a tag names something that requests to this route do not have.
    """

    __slots__ = (
        "_forwarded_host", "_keyed_names", "_queries", "_seen", "_seen_by_anybody", "_tags", "_vary", "allow",
        "is_public", "is_shared", "options", "stale_if_error_s", "stale_s", "varies_by",
    )  # fmt: skip

    def __init__(self, route: Route, options: CacheOptions, settings: ResponseCacheOptions) -> None:
        self.options = options
        self.allow = options.allow
        self.is_public = options.vary == "public"
        self.is_shared = options.vary == "organization"
        self.stale_s = min(settings.stale_s, options.ttl_s) if options.stale_s is None else options.stale_s
        self.stale_if_error_s = settings.error_s if options.stale_if_error_s is None else options.stale_if_error_s
        declared = {name.lower().encode("latin-1") for name in options.vary_headers}
        self._vary = tuple(sorted(declared | ({_ORIGIN} if settings.is_origin_keyed else set())))
        passed = {name.lower().encode("latin-1") for name in options.pass_headers}
        self._seen = _ALWAYS_SEEN | declared | passed | set(self._vary)
        self._seen_by_anybody = self._seen - _OF_THE_CALLER
        self._forwarded_host = settings.host.encode("latin-1") if settings.host is not None else None
        # What a handler may name in Vary: what is in the key, or nothing that it can see.
        self.varies_by = frozenset(self._vary) | (frozenset() if self.is_public else _OF_THE_CALLER)
        if options.compress:
            self.varies_by |= {b"accept-encoding"}
        self._tags = tuple(_Template(tag, route.template) for tag in options.tags)
        self._keyed_names = frozenset(options.query) if options.query is not None else None
        self._queries: dict[bytes, str] = {}

    def __repr__(self) -> str:
        return f"<RoutePlan vary={self.options.vary} ttl_s={self.options.ttl_s:g} tags={len(self._tags)}>"

    def sees_header(self, name: str) -> bool:
        """Say whether the handler gets a request header, by its name in lower case."""
        seen = name.encode("latin-1", "replace")
        return seen in self._seen or seen in _OF_THE_CALLER or seen == _HOST

    def sees_parameter(self, name: str) -> bool:
        """Say whether the handler gets a query parameter."""
        return self._keyed_names is None or name in self._keyed_names

    def owner(self, principal: Principal | None) -> str:
        """Return whose answer it is, as text that no other owner has."""
        if self.is_public or principal is None:
            return "p"
        organization = principal.organization
        # Callers without an organisation are not one organisation: each is alone.
        if organization is None:
            return f"a{principal.actor}"
        if self.is_shared:
            return f"o{organization}"
        return f"m{len(organization)}:{organization}{principal.actor}"

    def tenant(self, principal: Principal | None) -> str:
        """Return whose share of the room the answer takes; empty: nobody's."""
        return "" if self.is_public or principal is None else principal.organization or ""

    def key(self, scope: Scope, principal: Principal | None, fields: Mapping[bytes, bytes]) -> str:
        """Return the name of the answer to this request."""
        owner = self.owner(principal)
        path: str = scope["path"]
        raw: bytes = scope["query_string"]
        query = self.query(raw) if raw else ""
        key = f"{scope['scheme']}:{len(owner)}:{owner}{len(path)}:{path}{len(query)}:{query}"
        raw_path = scope.get("raw_path")
        if raw_path is not None and raw_path != path.encode("utf-8", "surrogatepass"):
            key += f"|{raw_path!r}"  # "%2F" and "/" are one path, and the handler can tell them apart
        for name in self._vary:
            if name in fields:
                key += f"|{name.decode()}={_combined(scope['headers'], name)!r}"
        return key

    def query(self, raw: bytes) -> str:
        """Return the parameters that count, by name; those of one name keep their order."""
        known = self._queries.get(raw)
        if known is not None:
            return known
        # The very parser that the framework uses: what it takes for another parameter has to be another one here.
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
        if self._keyed_names is not None:
            pairs = [pair for pair in pairs if pair[0] in self._keyed_names]
        query = urlencode(sorted(pairs, key=lambda pair: pair[0]), errors="surrogateescape")
        if len(raw) <= _QUERY_REMEMBERED_BYTES:
            if len(self._queries) >= _QUERIES_REMEMBERED:
                self._queries.clear()
            self._queries[raw] = query
        return query

    def tags(self, context: RequestContext, path: str) -> tuple[str, ...]:
        """Return what invalidates the answer: its own tags, its organisation, and its path as the key ``http:<path>``.

        Raises:
            ValueError: the path or a value has control characters or is too long; such an answer is not stored.
        """
        principal = None if self.is_public else context.principal
        explicit = [template.fill(principal, context.path_values) for template in self._tags]
        return tags_of(f"http:{path}", explicit, None if principal is None else principal.organization)

    def scope_of_load(self, scope: Scope, principal: Principal | None) -> Scope:
        """Return the request as the handler may see it: without anything that the answer does not depend on."""
        seen = self._seen if principal is None else self._seen_by_anybody
        headers: Headers = [pair for pair in scope["headers"] if pair[0] in seen]
        if principal is not None:
            # Of a repeated field the last is the one that was believed, and a handler would read the first.
            headers += {name: (name, value) for name, value in scope["headers"] if name in _OF_THE_CALLER}.values()
        if _HOST not in self._seen:
            host = self._forwarded_host or _server(scope)
            if host is not None:
                headers.append((_HOST, host))
        load = {**scope, "headers": headers}
        if self._keyed_names is not None:
            load["query_string"] = self.query(scope["query_string"]).encode()
        return load


class _Template:
    """A tag, split once: formatting on each request costs ten times as much."""

    __slots__ = ("_constant", "_parts")

    def __init__(self, tag: str, route: str) -> None:
        known = {"organization", "actor", *_PARAMETER.findall(route)}
        parts: list[tuple[str, str | None]] = []
        try:
            checked_tag(tag)
            fields = list(Formatter().parse(tag))
        except (TypeError, ValueError) as wrong:
            raise ConfigurationError(f"the tag {tag!r} of {route} is none: {wrong}", remedy="see b1.cached") from None
        for text, name, _, _ in fields:
            if name is not None and name not in known:
                raise ConfigurationError(f"the tag {tag!r} of {route} names {name!r}", remedy=f"of {sorted(known)}")
            parts.append((text, name))
        self._parts = parts
        self._constant = "".join(text for text, _ in parts) if all(name is None for _, name in parts) else None

    def fill(self, principal: Principal | None, path_values: Mapping[str, str]) -> str:
        if self._constant is not None:
            return self._constant
        return "".join(
            text if name is None else f"{text}{_value(name, principal, path_values)}" for text, name in self._parts
        )


def _value(name: str, principal: Principal | None, path_values: Mapping[str, str]) -> str:
    if name in path_values:
        return path_values[name]
    return str(getattr(principal, name, None))


def _combined(headers: Headers, name: bytes) -> bytes:
    """Return all lines of a field as one, without the spaces that mean nothing."""
    return b",".join(elements([value for given, value in headers if given == name]))


def _server(scope: Scope) -> bytes | None:
    server = scope.get("server")
    if not server:
        return None
    host, port = server[0], server[1]
    if "/" in str(host):
        return b"localhost"  # a Unix socket
    name = f"[{host}]" if ":" in host else str(host)
    return (name if port in (None, 80, 443) else f"{name}:{port}").encode("latin-1")
