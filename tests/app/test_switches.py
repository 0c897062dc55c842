"""A feature that is off is gone and nothing else with it; a database that is away is a 503, not a 500."""

from __future__ import annotations

import pytest

from tests.app import client
from tests.app.client import EXPENSE
from tests.app.conftest import Connection


@pytest.mark.parametrize("switch", ["ENABLE_RATE_LIMITING", "ENABLE_CACHING", "ENABLE_IDEMPOTENCY"])
async def test_pantry_works_with_the_feature_off(
    pantry: Connection, postgres_url: str, allow_startup: None, switch: str
) -> None:
    async with client.running({"DATABASE_URL": postgres_url, switch: "0"}) as running:
        member = await running.member()
        answers = [
            await member.post("/v1/finance/expenses", EXPENSE, key="k1"),
            await member.get("/v1/finance/summary"),
            await member.get("/v1/reference/accounts"),
            await member.operate("READ", {"entity_type": "CUSTOMER"}),
        ]

    assert [answer.status_code for answer in answers] == [201, 200, 200, 200]
    assert answers[1].json()["currencies"]["INR"]["expensesCents"] == 50_000


async def test_without_a_database_everything_that_needs_it_says_so(allow_startup: None) -> None:
    async with client.running({}) as running:
        answer = await running.log_in()

    assert answer.status_code == 503
