"""The ledger in SQL.

An expense or a revenue, its journal entry and both lines are one statement: one round trip, and no moment at which the
books do not balance. The columns are named as the answers name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.sql import Executor

# Parameters of both: organization, actor, property, category, amount, currency, description, date, payment mode,
# account to debit, account to credit. No row comes back when the property does not exist, and nothing is written.
_POST = """
    WITH entry AS (
        INSERT INTO journal_entries (organization_id, source, currency, occurred_at, created_by)
        SELECT $1, '{source}', $6, $8, $2
         WHERE EXISTS (SELECT FROM properties WHERE organization_id = $1 AND id = $3)
        RETURNING id
    ), lines AS (
        INSERT INTO journal_lines (organization_id, entry_id, line, account_code, currency, debit_cents, credit_cents)
        SELECT $1, entry.id, side.line, side.account_code, $6, side.debit_cents, side.credit_cents
          FROM entry,
               (VALUES (1, $10::text, $5::bigint, 0::bigint), (2, $11::text, 0::bigint, $5::bigint))
                    AS side (line, account_code, debit_cents, credit_cents)
    )
    INSERT INTO {table} (
        organization_id, property_id, category, amount_cents, currency, description, {date_column}, payment_mode,
        entry_id, created_by
    )
    SELECT $1, $3, $4, $5, $6, $7, $8, $9, entry.id, $2 FROM entry
    RETURNING {columns}
"""

_PAGE = """
    SELECT {columns} FROM {table}
     WHERE organization_id = $1
       AND ($2::bigint IS NULL OR id < $2)
     ORDER BY id DESC LIMIT $3
"""

_PAGE_OF_PROPERTY = """
    SELECT {columns} FROM {table}
     WHERE organization_id = $1 AND property_id = $4
       AND ($2::bigint IS NULL OR id < $2)
     ORDER BY id DESC LIMIT $3
"""

_SUMMARY = """
    SELECT 'expenses' AS side, currency, category, sum(amount_cents) AS cents, count(*) AS entries
      FROM expenses WHERE organization_id = $1 GROUP BY currency, category
    UNION ALL
    SELECT 'revenues', currency, category, sum(amount_cents), count(*)
      FROM revenues WHERE organization_id = $1 GROUP BY currency, category
     ORDER BY currency, side, category
"""

_BALANCE = """
    SELECT currency, sum(debit_cents) AS debits, sum(credit_cents) AS credits
      FROM journal_lines WHERE organization_id = $1 GROUP BY currency ORDER BY currency
"""


@dataclass(frozen=True, slots=True)
class Book:
    """One kind of posting: its table, and the statements on it.

    Expenses and revenues differ in three names, so their statements are written once and named here.
    """

    source: str
    table: str
    date_column: str
    date_field: str

    def statement(self, template: str) -> str:
        """Fill the names of this book, which are constants of this file, into a statement."""
        columns = (
            'id, property_id AS "propertyId", category, amount_cents AS "amountCents", currency, description, '
            f'{self.date_column} AS "{self.date_field}", payment_mode AS "paymentMode", entry_id AS "entryId", '
            'created_by AS "createdBy", created_at AS "createdAt"'
        )
        return template.format(source=self.source, table=self.table, date_column=self.date_column, columns=columns)


EXPENSES = Book("EXPENSE", "expenses", "expense_date", "expenseDate")
REVENUES = Book("REVENUE", "revenues", "revenue_date", "revenueDate")

_POSTS = {book: book.statement(_POST) for book in (EXPENSES, REVENUES)}
_PAGES = {book: book.statement(_PAGE) for book in (EXPENSES, REVENUES)}
_PAGES_OF_PROPERTY = {book: book.statement(_PAGE_OF_PROPERTY) for book in (EXPENSES, REVENUES)}


async def post(
    db: Executor,
    book: Book,
    *,
    organization: int,
    actor: int,
    property_id: int,
    category: str,
    amount_cents: int,
    currency: str,
    description: str,
    date: datetime,
    payment_mode: str,
    debit: str,
    credit: str,
) -> Any:
    """Write a posting with its entry and lines; None when the property does not exist."""
    return await db.fetchrow(
        _POSTS[book],
        organization,
        actor,
        property_id,
        category,
        amount_cents,
        currency,
        description,
        date,
        payment_mode,
        debit,
        credit,
    )


async def newest(
    db: Executor, book: Book, organization: int, *, property_id: int | None, before: int | None, limit: int
) -> Sequence[Any]:
    if property_id is None:
        return await db.fetch(_PAGES[book], organization, before, limit)
    return await db.fetch(_PAGES_OF_PROPERTY[book], organization, before, limit, property_id)


async def summary(db: Executor, organization: int) -> Sequence[Any]:
    return await db.fetch(_SUMMARY, organization)


async def balance(db: Executor, organization: int) -> Sequence[Any]:
    return await db.fetch(_BALANCE, organization)
