"""One read of the cache, as its parts hand it to each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from b1.cache.how import How
from b1.cache.names import (
    PREFIXES_LIMIT,
    checked_key,
    entry_name,
    key_tag,
    namespace_of,
    prefix_tag,
    prefixes_of,
    tags_of,
)
from b1.cache.options import CacheOptions, LoadOptions, Residence
from b1.cache.reading.many import BatchLoader
from b1.cache.reading.shared import store_key

Loader = Callable[[], Awaitable[Any]]


class Read:
    """What is asked for, and how.

    Attributes:
        key: as the application names it.
        name: of the entry in this process; the key with its organisation.
        tags: all of them, implicit ones included.
        batch: the common load that it is a part of.
        hard_timeout_s: when the load is given up.
    """

    __slots__ = (
        "_place", "batch", "hard_timeout_s", "key", "loader", "name", "options", "organization", "residence", "tags",
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
        self._place = ""
        self.hard_timeout_s = options.hard_timeout_s or hard_timeout_s

    def __repr__(self) -> str:
        return f"<Read {self.namespace} {self.residence}>"

    @property
    def place(self) -> str:
        """Where the entry is in the shared store."""
        if not self._place:
            self._place = store_key(self.key, self.organization)
        return self._place

    @property
    def namespace(self) -> str:
        """The key's first part, under which it is counted; keys themselves may hold what is nobody's business."""
        return namespace_of(self.key)

    @property
    def owner(self) -> str:
        """For whom bytes are accounted in L1."""
        return self.organization or ""


class Reads:
    """Makes reads, and refuses what makes no sense.

    Args:
        hard_timeout_s: of loads that say nothing else.
    """

    def __init__(self, options: CacheOptions, hard_timeout_s: float) -> None:
        self._options = options
        self._hard_timeout_s = hard_timeout_s

    def __repr__(self) -> str:
        return f"<Reads hard_timeout_s={self._hard_timeout_s}>"

    def one(self, key: str, loader: Loader, organization: str | None, how: How) -> Read:
        """Return the read of a key.

        Raises:
            ValueError: a key, tag, time or tier that is none.
        """
        tags = tags_of(key, how.get("tags", ()), organization)
        return self._read(key, tags, loader, self._residence(how), organization, how)

    def many(
        self, keys: Sequence[str], loader_of: Callable[[str], Loader], organization: str | None, how: How
    ) -> list[Read]:
        """Return the reads of many keys.

        Raises:
            ValueError: as `one`.
        """
        residence, naming = self._residence(how), Naming(tuple(how.get("tags", ())), organization)
        return [self._read(key, naming.tags_of(key), loader_of(key), residence, organization, how) for key in keys]

    def _residence(self, how: How) -> Residence:
        ttl_s = how.get("ttl_s")
        return self._options.residence(how.get("ttl", "warm") if ttl_s is None else ttl_s, how.get("tier"))

    def _read(
        self,
        key: str,
        tags: tuple[str, ...],
        loader: Loader,
        residence: Residence,
        organization: str | None,
        how: How,
    ) -> Read:
        options = how.get("options", self._options.load)
        name = key if organization is None else entry_name(key, organization)
        return Read(key, name, tags, loader, residence, options, organization, self._hard_timeout_s)


class Naming:
    """The tags of many keys that share all but their own name; as `tags_of`, at a third of its cost."""

    def __init__(self, tags: Sequence[str], organization: str | None) -> None:
        self._explicit = tags
        self._organization = organization
        self._common = tags_of("k", tags, organization)[1:]
        self._above: dict[str, tuple[str, ...]] = {}

    def tags_of(self, key: str) -> tuple[str, ...]:
        """Return what `tags_of` returns.

        Raises:
            ValueError: the key is none.
        """
        head, colon, _ = key.rpartition(":")
        if head.count(":") >= PREFIXES_LIMIT or "::" in key:
            return tags_of(key, self._explicit, self._organization)
        above = self._above.get(head + colon)  # ":x" has a prefix, "x" has none
        if above is None:
            prefixes = [prefix_tag(prefix, self._organization) for prefix in prefixes_of(key)]
            above = self._above[head + colon] = (*prefixes, *self._common)
        return (key_tag(checked_key(key), self._organization), *above)


async def nothing() -> None:
    """Load nothing: the reads that have this loader never load."""
