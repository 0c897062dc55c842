"""Finance over HTTP. Postings demand an idempotency key: their record commits in the posting's own transaction."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.answers import json_answer, page
from app.caching import LEDGER, TTL_S
from app.fields import PAGE_DEFAULT, Cursor, PageSize, PathId
from app.finance import service
from app.finance.models import (
    Balance,
    Expense,
    ExpensePage,
    ExpenseRequest,
    Revenue,
    RevenuePage,
    RevenueRequest,
    Summary,
)
from app.finance.queries import EXPENSES, REVENUES
from app.openapi import POSTING_PROBLEMS, READING_PROBLEMS, WITH_KEY
from app.profile import b1
from app.tenant import TenantRoute, tenant

router = APIRouter(prefix="/v1/finance", tags=["finance"], route_class=TenantRoute)
POSTING_LIMIT_BYTES = 64 * 1024
POSTING_FILTERS = ("limit", "cursor", "propertyId")
PropertyFilter = Annotated[PathId | None, Query(description="Only postings of this property.")]


@router.post("/expenses", status_code=201, response_model=Expense, responses=POSTING_PROBLEMS, openapi_extra=WITH_KEY)
@b1.limit("transactions")
@b1.body_limit(POSTING_LIMIT_BYTES)
@b1.idempotent(required=True, transactional=True)
async def post_expense(expense: ExpenseRequest) -> Response:
    async with b1.idempotent.transaction() as tx:
        posted = await service.post_expense(tx, tenant(), expense)
    return json_answer(posted, 201)


@router.get("/expenses", response_model=ExpensePage, responses=READING_PROBLEMS)
@b1.limit("transactions")
@b1.cached(ttl_s=TTL_S, vary="organization", tags=(LEDGER,), query=POSTING_FILTERS)
async def list_expenses(
    limit: PageSize = PAGE_DEFAULT, cursor: Cursor = None, propertyId: PropertyFilter = None
) -> Response:
    rows = await service.postings(tenant(), EXPENSES, property_id=propertyId, before=cursor, limit=limit)
    return json_answer(page(rows, limit))


@router.post("/revenues", status_code=201, response_model=Revenue, responses=POSTING_PROBLEMS, openapi_extra=WITH_KEY)
@b1.limit("transactions")
@b1.body_limit(POSTING_LIMIT_BYTES)
@b1.idempotent(required=True, transactional=True)
async def post_revenue(revenue: RevenueRequest) -> Response:
    async with b1.idempotent.transaction() as tx:
        posted = await service.post_revenue(tx, tenant(), revenue)
    return json_answer(posted, 201)


@router.get("/revenues", response_model=RevenuePage, responses=READING_PROBLEMS)
@b1.limit("transactions")
@b1.cached(ttl_s=TTL_S, vary="organization", tags=(LEDGER,), query=POSTING_FILTERS)
async def list_revenues(
    limit: PageSize = PAGE_DEFAULT, cursor: Cursor = None, propertyId: PropertyFilter = None
) -> Response:
    rows = await service.postings(tenant(), REVENUES, property_id=propertyId, before=cursor, limit=limit)
    return json_answer(page(rows, limit))


@router.get("/summary", response_model=Summary, responses=READING_PROBLEMS)
@b1.limit("transactions")
@b1.cached(ttl_s=TTL_S, vary="organization", tags=(LEDGER,), query=())
async def summary() -> Response:
    return json_answer(await service.summary(tenant()))


@router.get("/balance", response_model=Balance, responses=READING_PROBLEMS)
@b1.limit("transactions")
async def balance() -> Response:
    return json_answer(await service.balance(tenant()))
