"""One read of the cache, as its parts hand it to each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from b1.cache.names import namespace_of
from b1.cache.options import LoadOptions, Residence
from b1.cache.reading.many import BatchLoader
from b1.cache.reading.shared import store_key

Loader = Callable[[], Awaitable[Any]]


class Read:
    """What is asked for, and how.

    Attributes:
        key: as the application names it.
        name: of the entry in this process; the key with its organisation.
        tags: all of them, implicit ones included.
        place: of the entry in the shared store.
        batch: the common load that it is a part of.
        hard_timeout_s: when the load is given up.
    """

    __slots__ = (
        "batch", "hard_timeout_s", "key", "loader", "name", "options", "organization", "place", "residence", "tags",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        name: str,
        tags: tuple[str, ...],
        loader: Loader,
        residence: Residence,
        options: LoadOptions,
        organization: str | None,
        hard_timeout_s: float,
    ) -> None:
        self.key = key
        self.name = name
        self.tags = tags
        self.loader = loader
        self.residence = residence
        self.options = options
        self.organization = organization
        self.batch = loader if isinstance(loader, BatchLoader) else None
        self.place = store_key(key, organization)
        self.hard_timeout_s = options.hard_timeout_s or hard_timeout_s

    def __repr__(self) -> str:
        return f"<Read {self.namespace} {self.residence}>"

    @property
    def namespace(self) -> str:
        """The key's first part, under which it is counted; keys themselves may hold what is nobody's business."""
        return namespace_of(self.key)

    @property
    def owner(self) -> str:
        """For whom bytes are accounted in L1."""
        return self.organization or ""
