"""Forgetting: rows whose time is over, and everything of one organisation.

Rows go in slices of bounded size, each with a lease of its own and background priority, so that requests come in between.
A slice of a sweep through the table looks at the next `batch` rows of the primary key: no index by organisation is kept
for something that happens once in an organisation's life. So a sweep may take minutes, and can stop between two slices and
go on later (`Purged.next`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from b1.clock import Clock
from b1.errors import MalformedRequest, StoreUnavailable
from b1.idempotency import queries
from b1.idempotency.fingerprint import store_prefix
from b1.idempotency.transactional import LeaseSource

_ROWS, _STORE = "rows", "store"
_FROM_THE_START = f"{_ROWS}-"
_CURSOR_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Purged:
    """What went of one organisation's records.

    Attributes:
        rows, store_keys: that went, in Postgres and in the store.
        next: where to go on; None: everything was looked at.
    """

    rows: int
    store_keys: int
    next: str | None = None


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


class Purge:
    """One sweep through what is kept of an organisation: Postgres first, then the store, from which replays are quicker.

    Args:
        organization: None: what was asked in no organisation.
        batch: rows or keys looked at per slice.
        timeout_s: longest wait for a database connection.
    """

    def __init__(
        self, store: object, database: LeaseSource | None, organization: str | None, batch: int, timeout_s: float
    ) -> None:
        self._store = store
        self._database = database
        self._organization = organization
        self._batch = batch
        self._timeout_s = timeout_s
        self._rows = self._store_keys = 0

    def __repr__(self) -> str:
        return f"<Purge rows={self._rows} store_keys={self._store_keys}>"

    async def run(self, clock: Clock, *, after: str = "", limit_s: float | None = None) -> Purged:
        """Go on from `after` until everything was looked at, or the time is over.

        Raises:
            MalformedRequest: `after` is no place that a `Purged` named.
            DatabaseBusy, DatabaseUnavailable, StoreUnavailable: in the middle; what is gone is gone.
        """
        place: str | None = after or _FROM_THE_START
        until_s = None if limit_s is None else clock.monotonic() + limit_s
        while place is not None:
            place = await self._slice(place)
            if until_s is not None and clock.monotonic() >= until_s:
                break
        return Purged(self._rows, self._store_keys, place)

    async def _slice(self, place: str) -> str | None:
        """Do the slice that begins at `place`, and return where the next one does."""
        key, cursor = _read(place)
        if key is not None:
            last = await self._slice_of_rows(key)
            return f"{_STORE}-0" if last is None else f"{_ROWS}-{last.hex()}"
        cursor_after = await self._slice_of_store(cursor)
        return None if cursor_after is None else f"{_STORE}-{cursor_after}"

    async def _slice_of_rows(self, after: bytes) -> bytes | None:
        if self._database is None:
            return None
        async with self._database.acquire(priority="background", timeout_s=self._timeout_s) as lease:
            row = await lease.fetchrow(queries.PURGE_ORGANIZATION, after, self._batch, self._organization or "")
        self._rows += int(row["gone"])
        return None if row["last"] is None else bytes(row["last"])

    async def _slice_of_store(self, cursor: int) -> int | None:
        if not isinstance(self._store, Sweeping):
            raise StoreUnavailable("this store cannot remove an organisation's keys; they expire by themselves")
        swept = await self._store.sweep(store_prefix(self._organization), cursor, limit=self._batch)
        self._store_keys += swept.removed
        return swept.cursor


def _read(place: str) -> tuple[bytes | None, int]:
    """Return behind which row a place is, or else at which cursor of the store."""
    where, _, at = place.partition("-")
    try:
        if where == _ROWS:
            return bytes.fromhex(at), 0
        if where == _STORE and at.isdecimal() and len(at) <= _CURSOR_DIGITS:
            return None, int(at)
    except ValueError:
        pass
    raise MalformedRequest(f"{place[:80]!r} is no place to go on from: take the last answer's `next`")
