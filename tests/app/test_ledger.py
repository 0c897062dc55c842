"""The finance statements against a real Postgres."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.finance import queries
from app.finance.chart import PAID_FROM, PaymentMode, expense_accounts, revenue_accounts
from app.finance.queries import EXPENSES, REVENUES, Book
from tests.app.conftest import Connection

WHEN = datetime(2025, 12, 13, 10, tzinfo=UTC)


async def post(
    db: Connection, book: Book = EXPENSES, *, organization: int = 1, property_id: int = 1, cents: int = 50_000
) -> Any:
    return await queries.post(
        db,
        book,
        organization=organization,
        actor=1,
        property_id=property_id,
        category="maintenance",
        amount_cents=cents,
        currency="INR",
        description="Test",
        date=WHEN,
        payment_mode="cash",
        debit="5000",
        credit="1000",
    )


@pytest.mark.parametrize("book", [EXPENSES, REVENUES])
async def test_a_posting_its_entry_and_both_lines_are_one_statement(pantry: Connection, book: Book) -> None:
    posted = await post(pantry, book)

    lines = await pantry.fetch("SELECT account_code, debit_cents, credit_cents, entry_id FROM journal_lines")
    assert [("5000", 50_000, 0, posted["entryId"]), ("1000", 0, 50_000, posted["entryId"])] == [tuple(x) for x in lines]
    assert await pantry.fetchval("SELECT source FROM journal_entries") == book.source
    assert (posted[book.date_field], posted["createdBy"], posted["propertyId"]) == (WHEN, 1, 1)


async def test_an_unknown_property_writes_nothing_at_all(pantry: Connection) -> None:
    assert await post(pantry, property_id=99) is None

    assert await pantry.fetchval("SELECT count(*) FROM journal_entries") == 0


async def test_another_tenants_property_is_unknown(pantry: Connection) -> None:
    await pantry.execute("INSERT INTO properties VALUES (2, 7, 'Theirs')")

    assert await post(pantry, organization=1, property_id=7) is None


async def test_the_largest_amount_fits_and_balances(pantry: Connection) -> None:
    await post(pantry, cents=10**13)
    await post(pantry, REVENUES, cents=10**13)

    [row] = await queries.balance(pantry, 1)
    assert (int(row["debits"]), int(row["credits"])) == (2 * 10**13, 2 * 10**13)


async def test_pages_follow_each_other_without_gap_or_overlap(pantry: Connection) -> None:
    identities = [(await post(pantry))["id"] for _ in range(5)]

    first = await queries.newest(pantry, EXPENSES, 1, property_id=None, before=None, limit=3)
    second = await queries.newest(pantry, EXPENSES, 1, property_id=1, before=first[-1]["id"], limit=3)

    assert [row["id"] for row in (*first, *second)] == identities[::-1]


async def test_one_tenant_never_sees_another_ones_money(pantry: Connection) -> None:
    await post(pantry, organization=1)

    assert await queries.newest(pantry, EXPENSES, 2, property_id=None, before=None, limit=10) == []
    assert await queries.summary(pantry, 2) == []
    assert await queries.balance(pantry, 2) == []


async def test_the_summary_counts_each_side_by_category(pantry: Connection) -> None:
    await post(pantry, cents=100)
    await post(pantry, cents=50)
    await post(pantry, REVENUES, cents=400)

    rows = [
        (row["side"], row["currency"], row["category"], int(row["cents"]), row["entries"])
        for row in await queries.summary(pantry, 1)
    ]
    assert rows == [("expenses", "INR", "maintenance", 150, 2), ("revenues", "INR", "maintenance", 400, 1)]


@pytest.mark.parametrize(
    ("category", "mode", "expected"),
    [
        ("maintenance", "cash", ("5000", "1000")),
        ("Utilities", "bank_transfer", ("5010", "1010")),
        ("a word of their own", "credit", ("5900", "2000")),
    ],
)
def test_an_expense_debits_its_cost_and_credits_what_paid(
    category: str, mode: PaymentMode, expected: tuple[str, str]
) -> None:
    assert expense_accounts(category, mode) == expected


@pytest.mark.parametrize("mode", PAID_FROM)
def test_a_revenue_debits_what_received_the_money(mode: PaymentMode) -> None:
    debit, credit = revenue_accounts("room", mode)

    assert debit.startswith("1")  # an asset
    assert credit == "4000"
