"""The same transaction for a request without a key: handlers are written once and need not know whether there is one.

Here the block's end commits, since there is no answer to wait for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from b1.db.committing import call_all
from b1.idempotency.transactional import LeaseSource, Transaction


@asynccontextmanager
async def plain_transaction(database: LeaseSource) -> AsyncIterator[Transaction]:
    """Give a `Transaction` that commits at the end of the block and rolls back on an error.

    Raises:
        DatabaseBusy, DatabaseUnavailable: on entering, as any other lease; at the end, when the commit fails.
    """
    async with database.acquire() as lease:
        transaction = Transaction(lease)
        try:
            async with lease.transaction():
                yield transaction
        finally:
            callbacks = transaction.close()
    await call_all(callbacks)
