"""Reference data over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.answers import json_answer
from app.caching import CHART, REFERENCE_TTL_S
from app.openapi import READING_PROBLEMS
from app.profile import b1
from app.reference import service
from app.reference.models import Chart
from app.tenant import TenantRoute

router = APIRouter(prefix="/v1/reference", tags=["reference"], route_class=TenantRoute)


@router.get("/accounts", response_model=Chart, responses=READING_PROBLEMS)
@b1.cached(ttl_s=REFERENCE_TTL_S, vary="organization", tags=(CHART,), query=())
async def chart_of_accounts() -> Response:
    return json_answer(await service.chart_of_accounts())
