"""What a route declares through `B1`: decorators that leave a note on the endpoint function and change nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

from b1.asgi.limiting import By, Limit, Limited, Limiting
from b1.asgi.options import CacheOptions, Classify, declare
from b1.types import Principal

if TYPE_CHECKING:
    from b1.admission import AdmissionClass

EndpointFunction = TypeVar("EndpointFunction", bound=Callable[..., Any])


class MoreCaching(TypedDict, total=False):
    """What `CacheOptions` has besides the four that most routes use."""

    query: tuple[str, ...] | None
    vary_headers: tuple[str, ...]
    pass_headers: tuple[str, ...]
    stale_s: float | None
    stale_if_error_s: float | None
    client_ttl_s: float
    negative_ttl_s: float
    compress: bool
    obey_no_cache: bool


class Declarations:
    """The decorators; they need no running application.

    Attributes:
        limiting: the policies, to which a rate that a route declares adds one.
    """

    limiting: Limiting

    def limit(
        self, *limits: Limit, by: By | None = None, with_default: bool = False
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare what the route spends: ``@b1.limit("100/minute", by="address")``, ``@b1.limit("search")``.

        Instead of the default policies, or beside them; none at all when the handler calls `enforce`. See `Limiting.limit`.
        """
        return self.limiting.limit(*limits, by=by, with_default=with_default)

    def limited(self, *limits: Limit, by: By | None = None, cost: int = 1, name: str | None = None) -> Limited:
        """Return a dependency that spends: ``Depends(b1.limited("search"))``. See `Limiting.limited`."""
        return self.limiting.limited(*limits, by=by, cost=cost, name=name)

    def limit_by(
        self, classify: Classify, *fallback: str, body_limit_bytes: int = 65_536
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare that the JSON body names the route's policies; `fallback` applies where it does not."""
        return partial(declare, classify=classify, limits=fallback, classify_bytes=body_limit_bytes)

    def cached(
        self,
        *,
        ttl_s: float,
        vary: Literal["actor", "organization", "public"] = "actor",
        tags: tuple[str, ...] = (),
        allow: Callable[[Principal], bool] | None = None,
        **more: Unpack[MoreCaching],
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare that the route's answers may be stored; see `CacheOptions`, which has all that may be given.

        Raises:
            ConfigurationError: an option makes no sense.
        """
        return partial(declare, cache=CacheOptions(ttl_s=ttl_s, vary=vary, tags=tags, allow=allow, **more))

    def body_limit(self, limit_bytes: int) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare the largest body that the route accepts, in bytes; the profile's own limit stays above it."""
        return partial(declare, body_limit_bytes=limit_bytes)

    def admit(
        self, admission: AdmissionClass = "normal", *, cpu_bound: bool | None = None
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare what is given up first under pressure, and how the route uses the core.

        Args:
            admission: ``critical`` (keeps half of the permits, served up to the last level), ``normal``, or ``sheddable``
                (refused from the high memory level on).
            cpu_bound: True has its requests run one at a time; False never measures them; None has it learned.
        """
        return partial(declare, admission=admission, cpu_bound=cpu_bound)

    def deadline(self, seconds: float) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare how long the route may work, in seconds."""
        return partial(declare, deadline_s=seconds)
