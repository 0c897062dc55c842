"""What a query needs of a connection: `b1.db` and an idempotent transaction both offer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Executor(Protocol):
    """Runs one statement. Rows are the driver's records, which `dict()` takes; hence `Any`."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]: ...

    async def fetchrow(self, query: str, *args: Any) -> Any: ...
