"""The same facts with a real Redis behind the limits and the claims."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.app import client
from tests.app.client import EXPENSE, Pantry
from tests.app.conftest import Connection


@pytest.fixture
async def on_redis(pantry: Connection, postgres_url: str, redis_url: str) -> AsyncIterator[client.Pantry]:
    async with client.running({"DATABASE_URL": postgres_url, "REDIS_URL": redis_url}) as one:
        yield one


async def test_one_key_three_times_is_one_expense(on_redis: Pantry, pantry: Connection) -> None:
    member = await on_redis.member()
    bodies = (EXPENSE, EXPENSE, {**EXPENSE, "amountCents": 1})

    answers = [await member.post("/v1/finance/expenses", body, key="k1") for body in bodies]

    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert answers[0].content == answers[1].content
    assert await pantry.fetchval("SELECT count(*) FROM expenses") == 1


async def test_a_member_on_pro_reads_a_hundred_times_a_minute(on_redis: Pantry) -> None:
    member = await on_redis.member()

    codes = [(await member.operate("READ", {"entity_type": "CUSTOMER"})).status_code for _ in range(102)]

    assert codes == [200] * 100 + [429] * 2


async def test_the_sixth_failed_log_in_is_refused(on_redis: Pantry) -> None:
    codes = [(await on_redis.log_in(password="guess")).status_code for _ in range(6)]

    assert codes == [401] * 5 + [429]
