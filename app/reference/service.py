"""Reference data through the cache: it changes with a release, not with a request."""

from __future__ import annotations

from typing import Any

from app.caching import CHART, REFERENCE_TTL_S
from app.profile import b1
from app.reference import queries


async def chart_of_accounts() -> dict[str, Any]:
    """Return the chart; one query per five minutes for all organisations, however many ask."""
    return await b1.cache.get_or_load("reference:accounts", _load_chart, ttl_s=REFERENCE_TTL_S, tags=(CHART,))


@b1.warming.critical(keys=("reference:accounts",))
async def warm_chart() -> None:
    """Every posting is checked against the chart, and every form shows it: have it before the first request."""
    await chart_of_accounts()


async def from_source(key: str, organization: str | None) -> dict[str, Any]:
    """Return what `chart_of_accounts` should have cached, for the coherency check."""
    return await _load_chart()


async def _load_chart() -> dict[str, Any]:
    return {"accounts": [dict(row) for row in await queries.accounts(b1.db)]}
