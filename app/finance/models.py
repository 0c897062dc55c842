"""Bodies of the finance routes. Amounts are whole cents: a float has no place in a ledger, so none is accepted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, RootModel, StringConstraints
from pydantic_core import PydanticCustomError

from app.fields import Id, Label, without_nul
from app.finance.chart import PaymentMode

# A hundred billion in the currency's unit. It keeps every sum of a tenant within 64 bits for 900 000 such postings.
AMOUNT_MAX_CENTS = 10**13
_FIRST_YEAR, _LAST_YEAR = 1970, 2199


def _only_dates(value: Any) -> Any:
    """Refuse numbers, also as text: pydantic would read 50000 as half a day after the first of January 1970."""
    if not isinstance(value, str) or value[4:5] != "-":
        raise PydanticCustomError("date_as_text", "A date is text in ISO 8601, such as 2025-12-13T10:00:00Z")
    return value


def _moment(value: datetime) -> datetime:
    """Read a date without a zone as UTC, and refuse years in which no business was done."""
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise PydanticCustomError(
            "date_range", "The year must be from {first} to {last}", {"first": _FIRST_YEAR, "last": _LAST_YEAR}
        )
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


AmountCents = Annotated[int, Field(strict=True, ge=1, le=AMOUNT_MAX_CENTS)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Description = Annotated[str, StringConstraints(max_length=1000), AfterValidator(without_nul)]
Moment = Annotated[datetime, BeforeValidator(_only_dates), AfterValidator(_moment)]


class _Posting(BaseModel):
    propertyId: Id
    category: Label
    amountCents: AmountCents
    currency: Currency
    description: Description
    paymentMode: PaymentMode


class ExpenseRequest(_Posting):
    expenseDate: Moment


class RevenueRequest(_Posting):
    revenueDate: Moment


class _Posted(BaseModel):
    id: int
    propertyId: int
    category: str
    amountCents: int
    currency: str
    description: str
    paymentMode: str
    entryId: int
    createdBy: int
    createdAt: datetime


class Expense(_Posted):
    expenseDate: datetime


class Revenue(_Posted):
    revenueDate: datetime


class ExpensePage(BaseModel):
    items: list[Expense]
    nextCursor: int | None


class RevenuePage(BaseModel):
    items: list[Revenue]
    nextCursor: int | None


class CategoryTotal(BaseModel):
    cents: int
    entries: int


class CurrencySummary(BaseModel):
    expensesCents: int
    revenuesCents: int
    netCents: int
    expenses: dict[str, CategoryTotal]
    revenues: dict[str, CategoryTotal]


class Summary(BaseModel):
    """Totals per currency; `asOf` is when they were read from the ledger, which a cached answer keeps."""

    organization: int
    asOf: datetime
    currencies: dict[str, CurrencySummary]


class CurrencyBalance(BaseModel):
    """`differenceCents` is zero as long as the books balance."""

    debitsCents: int
    creditsCents: int
    differenceCents: int


class Balance(RootModel[dict[str, CurrencyBalance]]):
    """All debits and credits of the journal, per currency."""
