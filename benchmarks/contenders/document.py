"""The one document that every contender answers with: an organisation's balance, 327 bytes of JSON.

The handler builds the model from a row, and FastAPI serialises it by its return annotation, as a plain route does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

PATH = "/v1/balance"
CACHED_PATH = "/v1/balance-cached"


class AccountBalance(BaseModel):
    """One account of the ledger."""

    code: str
    name: str
    balanceCents: int


class Balance(BaseModel):
    """An organisation's balance in one currency."""

    propertyId: int
    currency: str
    debitsCents: int
    creditsCents: int
    differenceCents: int
    asOf: datetime
    accounts: list[AccountBalance]


ROW: dict[str, Any] = {
    "propertyId": 1,
    "currency": "EUR",
    "debitsCents": 12_843_500,
    "creditsCents": 12_843_500,
    "differenceCents": 0,
    "asOf": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    "accounts": [
        {"code": "1000", "name": "Cash", "balanceCents": 8_211_250},
        {"code": "1100", "name": "Accounts receivable", "balanceCents": 4_632_250},
        {"code": "4000", "name": "Room revenue", "balanceCents": -12_843_500},
    ],
}


async def read_balance() -> Balance:
    """The handler of every FastAPI contender."""
    return Balance.model_validate(ROW)
