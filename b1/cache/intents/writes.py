"""What intents need of a transaction: statements, and to be told of its commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from b1.cache.intents import queries
from b1.db.committing import OnCommit, call_all
from b1.errors import ConfigurationError

T = TypeVar("T")


class Write(Protocol):
    """A transaction: that of ``b1.idempotent.transaction()``, or a lease's."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str, *args: Any) -> str: ...


class Database(Protocol):
    """The part of `b1.db.Database` that is used here."""

    async def fetch(self, query: str, *args: Any, priority: Any = ...) -> Sequence[Any]: ...
    async def fetchval(self, query: str, *args: Any, priority: Any = ...) -> Any: ...
    async def execute(self, query: str, *args: Any, priority: Any = ...) -> str: ...


class SingleStatement:
    """A write of one statement without a transaction around it: Postgres commits it by itself, in one trip.

    Where the answer to the statement is lost nobody is told of the commit; then the row that rode on it is found and
    applied, as after a crash.
    """

    def __init__(self, database: Write) -> None:
        self._database = database
        self._callbacks: list[OnCommit] = []

    def __repr__(self) -> str:
        return f"<SingleStatement {self._database!r}>"

    def on_commit(self, callback: OnCommit) -> None:
        """Call `callback` behind the statement."""
        self._callbacks.append(callback)

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]:
        """Run the statement and return all rows."""
        return await self._committed(self._database.fetch(query, *args))

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """Run the statement and return the first row, or None."""
        return await self._committed(self._database.fetchrow(query, *args))

    async def fetchval(self, query: str, *args: Any) -> Any:
        """Run the statement and return the first column of the first row, or None."""
        return await self._committed(self._database.fetchval(query, *args))

    async def execute(self, query: str, *args: Any) -> str:
        """Run the statement and return its status."""
        return await self._committed(self._database.execute(query, *args))

    async def _committed(self, running: Awaitable[T]) -> T:
        result = await running
        callbacks, self._callbacks = self._callbacks, []
        await call_all(callbacks)
        return result


def as_write(write: Write) -> Write:
    """Return `write`, or a write of one statement when it is the database itself."""
    return write if hasattr(write, "on_commit") else SingleStatement(write)


def on_commit_of(write: Write) -> Callable[[OnCommit], None]:
    """Return where to register for the commit.

    Raises:
        ConfigurationError: `write` has no such thing.
    """
    register = getattr(write, "on_commit", None)
    if register is None:
        raise ConfigurationError(
            f"a {type(write).__name__} cannot say when it is committed",
            remedy="use b1.idempotent.transaction(), or a lease inside its own `async with lease.transaction()`",
        )
    return cast("Callable[[OnCommit], None]", register)


class Riding:
    """One statement of a write, with the write's intent on its back. Good for one call.

    Args:
        prepare: registers for the commit and returns the values of the intent's row; None: there is no row.
    """

    def __init__(self, write: Write, prepare: Callable[[], Awaitable[tuple[Any, ...] | None]]) -> None:
        self._write = write
        self._prepare = prepare

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]:
        """Run `query` and return all rows."""
        query, args = await self._mounted(query, args)
        return await self._write.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """Run `query` and return the first row, or None."""
        query, args = await self._mounted(query, args)
        return await self._write.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """Run `query` and return the first column of the first row, or None."""
        query, args = await self._mounted(query, args)
        return await self._write.fetchval(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        """Run `query` and return its status."""
        query, args = await self._mounted(query, args)
        return await self._write.execute(query, *args)

    async def _mounted(self, query: str, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        row = await self._prepare()
        if row is None:
            return query, args
        ridden = queries.riding(query, len(args))
        if ridden is None:
            if isinstance(self._write, SingleStatement):
                raise ConfigurationError(
                    "nothing can ride on this statement, and there is no transaction for a second one",
                    remedy="use a transaction: b1.idempotent.transaction(), or lease.transaction()",
                )
            await self._write.execute(queries.INSERT, *row)
            return query, args
        return ridden, (*args, *row)
