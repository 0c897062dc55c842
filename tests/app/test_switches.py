"""A feature that is off is gone, and nothing else with it."""

from __future__ import annotations

import pytest

from tests.app import client
from tests.app.client import EXPENSE
from tests.app.conftest import Connection


@pytest.mark.parametrize("switch", ["ENABLE_RATE_LIMITING", "ENABLE_CACHING", "ENABLE_IDEMPOTENCY"])
async def test_pantry_works_with_the_feature_off(pantry: Connection, postgres_url: str, switch: str) -> None:
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
