"""What a route can declare, kept on the endpoint function itself so that decorators need no application object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from b1.errors import ConfigurationError

if TYPE_CHECKING:
    from b1.admission import AdmissionClass
    from b1.asgi.callers import KeyOf
    from b1.idempotency.options import IdempotencyOptions
    from b1.types import Principal

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Classify = Callable[[Mapping[str, Any]], tuple[str, ...]]
_ATTRIBUTE = "__b1_options__"
_LONGEST_S = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How a GET's answer may be stored.

    Attributes:
        ttl_s: how long a stored answer is fresh, in seconds; the handler's own ``max-age`` may shorten it.
        vary: whose answer it is; ``actor`` is the safe default, ``organization`` shares among a tenant's members,
            ``public`` is one answer for everybody, signed in or not.
        tags: names that invalidate it; ``{organization}``, ``{actor}`` and the path's parameters are filled in.
        allow: the route's own authorisation, asked for every caller before a stored answer is served.
        query: the parameters that the answer depends on; None: all. The handler gets no others.
        vary_headers: request headers that the answer depends on, one answer for each of their values.
        pass_headers: request headers that the handler needs and its answer does not depend on. It sees no others:
            what it cannot read cannot end up in an answer that somebody else gets.
        stale_s: for how long after its time it is still served while it is refreshed; None: the profile's, `ttl_s` at
            most.
        stale_if_error_s: for how long after its time it is served when the handler fails; None: the profile's.
        client_ttl_s: how long clients may keep it without asking. No invalidation reaches them, so 0 has them ask
            each time, which costs a 304.
        negative_ttl_s: how long a 404, 410, 301 or 308 is kept; 0: not at all.
        compress: text from 1 KB on is sent and stored compressed.
        obey_no_cache: a client's ``no-cache`` and ``max-age`` run the handler. Whoever may do that can do it all day.

    Raises:
        ConfigurationError: a time is not finite or negative, names are one text, or `allow` is asked about callers that
            nobody knows.
    """

    ttl_s: float
    vary: Literal["actor", "organization", "public"] = "actor"
    tags: tuple[str, ...] = ()
    allow: Callable[[Principal], bool] | None = None
    query: tuple[str, ...] | None = None
    vary_headers: tuple[str, ...] = ()
    pass_headers: tuple[str, ...] = ()
    stale_s: float | None = None
    stale_if_error_s: float | None = None
    client_ttl_s: float = 0.0
    negative_ttl_s: float = 0.0
    compress: bool = True
    obey_no_cache: bool = False

    def __post_init__(self) -> None:
        for name in ("ttl_s", "stale_s", "stale_if_error_s", "client_ttl_s", "negative_ttl_s"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 <= seconds <= _LONGEST_S:
                raise ConfigurationError(f"{name} is {seconds}", remedy=f"give 0 to {_LONGEST_S} seconds")
        for name in ("tags", "query", "vary_headers", "pass_headers"):
            if isinstance(text := getattr(self, name), str | bytes):  # it would be taken letter by letter
                raise ConfigurationError(f"{name} is the text {text!r}", remedy=f"give a tuple: {name}=({text!r},)")
        if self.vary not in ("actor", "organization", "public"):
            raise ConfigurationError(f"vary is {self.vary!r}", remedy="give actor, organization or public")
        if self.vary == "public" and self.allow is not None:
            raise ConfigurationError("a public answer asks nobody", remedy="leave allow out, or vary by actor")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """Everything a route declared; the default declares nothing.

    Attributes:
        limits: names of the policies that apply; None means the application's default for the caller and method, and an
            empty tuple means that the handler itself spends what there is to spend.
        limit_keys: names of policies with what says, for a request, what they count instead of what their scope says.
        with_default_limits: the application's default policies apply beside `limits`.
        classify: names the policies from the JSON body, which is then read before the limiter decides.
        classify_bytes: the largest body that `classify` reads.
        body_limit_bytes: the largest body that the route accepts; None leaves the profile's own limit.
        deadline_s: how long the route may work, in seconds; None leaves the profile's own deadline.
        admission: what is given up first under pressure; None leaves the application's default.
        cpu_bound: True has its requests run one at a time, with turns of the loop between them; False
            never, and its requests are not measured; None has it learned.
    """

    limits: tuple[str, ...] | None = None
    limit_keys: tuple[tuple[str, KeyOf], ...] = ()
    with_default_limits: bool = False
    classify: Classify | None = None
    classify_bytes: int = 65_536
    idempotency: IdempotencyOptions | None = None
    cache: CacheOptions | None = None
    deadline_s: float | None = None
    body_limit_bytes: int | None = None
    admission: AdmissionClass | None = None
    cpu_bound: bool | None = None


NOTHING_DECLARED = RouteOptions()


def declared(endpoint: Any) -> RouteOptions:
    """Return what `endpoint` declared."""
    options = getattr(endpoint, _ATTRIBUTE, NOTHING_DECLARED)
    return options if isinstance(options, RouteOptions) else NOTHING_DECLARED


def declare(endpoint: Endpoint, **changes: Any) -> Endpoint:
    """Add to what `endpoint` declares and return it."""
    setattr(endpoint, _ATTRIBUTE, replace(declared(endpoint), **changes))
    return endpoint
