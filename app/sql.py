"""What a query needs of a connection."""

from __future__ import annotations

from collections.abc import Sequence
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
