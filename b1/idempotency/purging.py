"""Forgetting: rows whose time is over, and everything of one organisation.

Rows go in slices of bounded size, each with a lease of its own and background priority, so that requests come in between.
A slice of a sweep through the table looks at the next `batch` rows of the primary key: no index by organisation is kept
for something that happens once in an organisation's life.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from b1.errors import StoreUnavailable
from b1.idempotency import queries
from b1.idempotency.fingerprint import store_prefix
from b1.idempotency.transactional import LeaseSource

_FROM_THE_START = b""


@dataclass(frozen=True, slots=True)
class Purged:
    """What went of one organisation's records."""

    rows: int
    store_keys: int


class Swept(Protocol):
    """The answer of one slice of a sweep; `cursor` is None at the end."""

    @property
    def cursor(self) -> int | None: ...
    @property
    def removed(self) -> int: ...


@runtime_checkable
class Sweeping(Protocol):
    """A store that can remove the finished keys that begin with a text, a bounded slice at a time."""

    async def sweep(self, prefix: str, cursor: int, *, limit: int) -> Swept:
        """Look at about `limit` keys from `cursor` on (0: the start) and remove those that are finished."""
        ...


async def purge_expired(database: LeaseSource, limit: int, *, timeout_s: float) -> int:
    """Delete up to `limit` expired rows and return how many went; a living row is never waited for."""
    async with database.acquire(priority="background", timeout_s=timeout_s) as lease:
        return int(await lease.fetchval(queries.PURGE, limit))


async def purge_rows(database: LeaseSource, organization: str, batch: int, *, timeout_s: float) -> int:
    """Delete all rows of an organisation and return how many went."""
    gone, after = 0, _FROM_THE_START
    while True:
        async with database.acquire(priority="background", timeout_s=timeout_s) as lease:
            row = await lease.fetchrow(queries.PURGE_ORGANIZATION, after, batch, organization)
        gone += int(row["gone"])
        if row["last"] is None:
            return gone
        after = bytes(row["last"])


async def purge_store(store: object, organization: str | None, batch: int) -> int:
    """Remove an organisation's finished keys from the store; what is in flight stays, and ends by itself.

    Raises:
        StoreUnavailable: the store is away, or cannot sweep.
    """
    if not isinstance(store, Sweeping):
        raise StoreUnavailable("this store cannot remove an organisation's keys; they expire by themselves")
    gone, cursor = 0, 0
    while True:
        swept = await store.sweep(store_prefix(organization), cursor, limit=batch)
        gone += swept.removed
        if swept.cursor is None:
            return gone
        cursor = swept.cursor
