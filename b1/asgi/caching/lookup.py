"""One request's question to the cache. The versions in it were taken before anything was read or run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from b1.asgi.caching.encoding import digest_of
from b1.types import Versions

if TYPE_CHECKING:
    from b1.asgi.caching.plan import RoutePlan
    from b1.cache.l1.table import Found

# Where the question travels from the layer that asks the store to the one that uses the answer.
LOOKUP = "b1.lookup"


class Lookup:
    """The question.

    Attributes:
        owner: the tenant, for quotas; empty for nobody's.
        versions: of the tags, as this process knows them.
        found: a stale answer, or a fresh one that has to be validated.
        vector: the versions at the shared store, taken by its read.
        has_lease: the shared store made us the loader.
    """

    __slots__ = ("found", "has_lease", "key", "owner", "plan", "vector", "versions")

    def __init__(self, plan: RoutePlan, key: str, owner: str, versions: Versions, found: Found | None) -> None:
        self.plan = plan
        self.key = key
        self.owner = owner
        self.versions = versions
        self.found = found
        self.vector: bytes | None = None
        self.has_lease = False

    @property
    def shared_key(self) -> str:
        """The key in the shared store: tenant and digest, whatever the request's length."""
        return f"answer:{self.owner}:{digest_of(self.key).hex()}"

    @property
    def flight(self) -> tuple[str, bytes]:
        """The name of a run that may be waited for: of this answer, at these versions."""
        return self.key, self.vector or self.versions.vector
