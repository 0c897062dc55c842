"""The worked example of docs/how-to/idempotent-effects-outside-postgres.md, which shows the part between the marks."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import HTTPException

from b1.idempotency import Attempt


class Declined(Exception):
    """The provider will never take this payment."""


class Provider(Protocol):
    async def charge(self, amount_cents: int, *, key: str) -> str: ...


class Database(Protocol):
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str, *args: Any) -> str: ...


# [example]
SCHEMA = """
CREATE TABLE IF NOT EXISTS payment_steps (
    attempt    uuid PRIMARY KEY,
    point      text NOT NULL DEFAULT 'started',   -- started, charged
    charge     text,                              -- what the provider answered
    amount     bigint NOT NULL,
    moved_at   timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS payments (id bigserial PRIMARY KEY, amount bigint NOT NULL, charge text NOT NULL UNIQUE)
"""

# A retry finds the row that it left. Each statement commits alone, and none holds a connection during the call.
STARTED = """
INSERT INTO payment_steps (attempt, amount) VALUES ($1, $2)
ON CONFLICT (attempt) DO UPDATE SET moved_at = now() RETURNING point, charge
"""
CHARGED = "UPDATE payment_steps SET point = 'charged', charge = $2, moved_at = now() WHERE attempt = $1"
FINISHED = "DELETE FROM payment_steps WHERE attempt = $1"
PAID = "INSERT INTO payments (amount, charge) VALUES ($1, $2) RETURNING id"

# For the job that looks after payments whose client never came back.
LEFT_BEHIND = "SELECT attempt, point, charge FROM payment_steps WHERE moved_at < now() - interval '1 day'"


async def pay(attempt: Attempt, db: Database, provider: Provider, amount_cents: int) -> dict[str, Any]:
    this_payment = attempt.key_for("payment")
    # 1. Say what is about to happen, before anything leaves the house.
    step = await db.fetchrow(STARTED, this_payment, amount_cents)
    charge = step["charge"]
    # 2. Make the call, unless an earlier try got its answer. The provider knows a repeat by its key.
    if step["point"] == "started":
        try:
            charge = await provider.charge(amount_cents, key=attempt.key_for("charge"))
        except Declined:
            await db.execute(FINISHED, this_payment)
            raise HTTPException(402, "the card was declined") from None
        await db.execute(CHARGED, this_payment, charge)
    # 3. Make the effect here, and forget the steps, in the transaction that also holds the answer.
    async with attempt.transaction() as tx:
        number = await tx.fetchval(PAID, amount_cents, charge)
        await tx.execute(FINISHED, this_payment)
    return {"id": number, "charge": charge}


# [end]
