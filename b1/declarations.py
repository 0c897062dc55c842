"""What a route declares through `B1`: decorators that leave a note on the endpoint function and change nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from b1.asgi.options import CacheOptions, Classify, declare
from b1.types import Principal

if TYPE_CHECKING:
    from b1.admission import AdmissionClass

EndpointFunction = TypeVar("EndpointFunction", bound=Callable[..., Any])


class Declarations:
    """The decorators; they need no running application."""

    def limit(self, *policies: str) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare the route's policies, instead of the default ones; none at all when the handler calls `enforce`."""
        return partial(declare, limits=policies)

    def limit_by(
        self, classify: Classify, *fallback: str, body_limit_bytes: int = 65_536
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare that the JSON body names the route's policies; `fallback` applies where it does not."""
        return partial(declare, classify=classify, limits=fallback, classify_bytes=body_limit_bytes)

    def cached(
        self,
        *,
        ttl_s: float,
        vary: Literal["actor", "organization"] = "actor",
        tags: tuple[str, ...] = (),
        allow: Callable[[Principal], bool] | None = None,
    ) -> Callable[[EndpointFunction], EndpointFunction]:
        """Declare that the route's answers may be stored; see `CacheOptions`."""
        return partial(declare, cache=CacheOptions(ttl_s=ttl_s, vary=vary, tags=tags, allow=allow))

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
