"""Postings and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.caching import LEDGER_POSTED
from app.errors import PropertyUnknown
from app.finance import queries
from app.finance.chart import expense_accounts, revenue_accounts
from app.finance.models import ExpenseRequest, RevenueRequest
from app.finance.queries import EXPENSES, REVENUES, Book
from app.profile import b1
from app.sql import Connection
from app.tenant import Tenant


async def post_expense(db: Connection, who: Tenant, expense: ExpenseRequest) -> dict[str, Any]:
    """Write an expense with its journal entry.

    Raises:
        PropertyUnknown: the organisation has no such property.
    """
    debit, credit = expense_accounts(expense.category, expense.paymentMode)
    return await _post(db, who, EXPENSES, expense, expense.expenseDate, debit, credit)


async def post_revenue(db: Connection, who: Tenant, revenue: RevenueRequest) -> dict[str, Any]:
    """Write a revenue with its journal entry.

    Raises:
        PropertyUnknown: the organisation has no such property.
    """
    debit, credit = revenue_accounts(revenue.category, revenue.paymentMode)
    return await _post(db, who, REVENUES, revenue, revenue.revenueDate, debit, credit)


async def postings(
    who: Tenant, book: Book, *, property_id: int | None, before: int | None, limit: int
) -> Sequence[Any]:
    """Return the newest postings, one more than `limit` if there are more."""
    return await queries.newest(b1.db, book, who.organization, property_id=property_id, before=before, limit=limit + 1)


async def summary(who: Tenant) -> dict[str, Any]:
    """Return totals per currency and category."""
    currencies: dict[str, dict[str, Any]] = {}
    for row in await queries.summary(b1.db, who.organization):
        sums = currencies.setdefault(
            row["currency"], {"expensesCents": 0, "revenuesCents": 0, "netCents": 0, "expenses": {}, "revenues": {}}
        )
        side, cents = row["side"], int(row["cents"])
        sums[side][row["category"]] = {"cents": cents, "entries": row["entries"]}
        sums[f"{side}Cents"] += cents
        sums["netCents"] = sums["revenuesCents"] - sums["expensesCents"]
    return {"organization": who.organization, "asOf": datetime.now(UTC), "currencies": currencies}


async def balance(who: Tenant) -> dict[str, dict[str, int]]:
    """Return the journal's debits and credits per currency; never cached, for it is the proof."""
    return {
        row["currency"]: _difference(int(row["debits"]), int(row["credits"]))
        for row in await queries.balance(b1.db, who.organization)
    }


def _difference(debits: int, credits: int) -> dict[str, int]:
    return {"debitsCents": debits, "creditsCents": credits, "differenceCents": debits - credits}


async def _post(
    db: Connection,
    who: Tenant,
    book: Book,
    posting: ExpenseRequest | RevenueRequest,
    date: datetime,
    debit: str,
    credit: str,
) -> dict[str, Any]:
    row = await queries.post(
        b1.changing(db, LEDGER_POSTED, organization=who.organization),
        book,
        organization=who.organization,
        actor=who.actor,
        property_id=posting.propertyId,
        category=posting.category,
        amount_cents=posting.amountCents,
        currency=posting.currency,
        description=posting.description,
        date=date,
        payment_mode=posting.paymentMode,
        debit=debit,
        credit=credit,
    )
    if row is None:
        raise PropertyUnknown(f"organisation {who.organization} has no property {posting.propertyId}")
    return dict(row)
