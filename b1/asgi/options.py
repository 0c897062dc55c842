"""What a route can declare, kept on the endpoint function itself so that decorators need no application object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from b1.admission import AdmissionClass
    from b1.asgi.callers import KeyOf
    from b1.idempotency.options import IdempotencyOptions
    from b1.types import Principal

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Classify = Callable[[Mapping[str, Any]], tuple[str, ...]]
_ATTRIBUTE = "__b1_options__"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How a GET's answer may be stored.

    Attributes:
        ttl_s: how long a stored answer is served, in seconds.
        vary: whose answer it is; ``actor`` is the safe default, ``organization`` shares among a tenant's members.
        tags: names that invalidate it; ``{organization}`` and ``{actor}`` are filled in from the principal.
        allow: the route's own authorisation, asked for every caller before a stored answer is served.
    """

    ttl_s: float
    vary: Literal["actor", "organization"] = "actor"
    tags: tuple[str, ...] = ()
    allow: Callable[[Principal], bool] | None = None


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
