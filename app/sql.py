"""What a query needs of a connection, and a write that needs no transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol


class Executor(Protocol):
    """Runs one statement. Rows are the driver's records, which `dict()` takes; hence `Any`.

    `b1.db`, an idempotent transaction and what `b1.changing` returns are such.
    """

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]: ...

    async def fetchrow(self, query: str, *args: Any) -> Any: ...


class Connection(Protocol):
    """Runs statements that write: `b1.db`, or a transaction of b1."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str, *args: Any) -> str: ...


class SingleStatement:
    """A write of one statement for `b1.changing`: Postgres commits it by itself, so it takes one trip instead of three.

    Where the answer to the statement is lost nobody is told of the commit; then the row that rode on it is found and
    applied by b1, as after a crash.
    """

    def __init__(self, database: Connection) -> None:
        self._database = database
        self._callbacks: list[Callable[[], Awaitable[None] | None]] = []

    def on_commit(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        """Call `callback` behind the next statement."""
        self._callbacks.append(callback)

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]:
        rows = await self._database.fetch(query, *args)
        await self._committed()
        return rows

    async def fetchrow(self, query: str, *args: Any) -> Any:
        row = await self._database.fetchrow(query, *args)
        await self._committed()
        return row

    async def fetchval(self, query: str, *args: Any) -> Any:
        value = await self._database.fetchval(query, *args)
        await self._committed()
        return value

    async def execute(self, query: str, *args: Any) -> str:
        status = await self._database.execute(query, *args)
        await self._committed()
        return status

    async def _committed(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            waiting = callback()
            if waiting is not None:
                await waiting
