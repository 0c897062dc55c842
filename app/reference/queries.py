"""The chart of accounts in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.sql import Executor

_ACCOUNTS = "SELECT code, name, type FROM accounts ORDER BY code"


async def accounts(db: Executor) -> Sequence[Any]:
    return await db.fetch(_ACCOUNTS)
