"""Money through the whole stack: one key, one effect; the books balance; nobody sees another tenant's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.finance.models import Balance, Expense, ExpensePage, Revenue, RevenuePage, Summary
from tests.app.client import EXPENSE, REVENUE, Pantry
from tests.app.conftest import Connection

EXPENSES, REVENUES = "/v1/finance/expenses", "/v1/finance/revenues"


async def test_one_key_three_times_is_one_expense(running: Pantry, pantry: Connection) -> None:
    member = await running.member()
    first = await member.post(EXPENSES, EXPENSE, key="k1")
    again = await member.post(EXPENSES, EXPENSE, key="k1")
    other = await member.post(EXPENSES, {**EXPENSE, "amountCents": 75_000}, key="k1")

    assert [first.status_code, again.status_code, other.status_code] == [201, 201, 409]
    assert again.content == first.content
    assert (again.headers["idempotent-replayed"], "idempotent-replayed" in first.headers) == ("true", False)
    assert other.json()["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert await pantry.fetchval("SELECT count(*) FROM expenses") == 1


@pytest.mark.parametrize("path", [EXPENSES, REVENUES])
async def test_a_posting_demands_a_key(running: Pantry, path: str) -> None:
    answer = await (await running.member()).post(path, EXPENSE)

    assert (answer.status_code, answer.json()["code"]) == (400, "IDEMPOTENCY_KEY_MISSING")


async def test_a_posting_says_who_made_it(running: Pantry, pantry: Connection) -> None:
    answer = await (await running.member("manager@example.com")).spend()

    actor = await pantry.fetchval("SELECT id FROM actors WHERE email = 'manager@example.com'")
    assert answer.json()["createdBy"] == actor
    assert await pantry.fetchval("SELECT created_by FROM journal_entries") == actor


async def test_answers_have_the_shape_that_the_reference_documents(running: Pantry) -> None:
    member = await running.member()
    shapes = {
        Expense: await member.spend(),
        Revenue: await member.spend(REVENUES, REVENUE),
        ExpensePage: await member.get(EXPENSES),
        RevenuePage: await member.get(REVENUES),
        Summary: await member.get("/v1/finance/summary"),
        Balance: await member.get("/v1/finance/balance"),
    }

    for model, answer in shapes.items():
        shape: Any = model.model_validate_json(answer.content, extra="forbid")
        assert shape.model_dump(mode="json") == answer.json()


async def test_the_balance_is_zero_sum_per_currency(running: Pantry) -> None:
    member = await running.member()
    await member.spend()
    await member.spend(REVENUES, {**REVENUE, "amountCents": 80_000})
    await member.spend(body={**EXPENSE, "currency": "EUR", "amountCents": 1})

    assert (await member.get("/v1/finance/balance")).json() == {
        "EUR": {"debitsCents": 1, "creditsCents": 1, "differenceCents": 0},
        "INR": {"debitsCents": 130_000, "creditsCents": 130_000, "differenceCents": 0},
    }


async def test_a_summary_is_cached_until_the_next_posting_commits(running: Pantry) -> None:
    member = await running.member()
    empty = await member.get("/v1/finance/summary")
    cached = await member.get("/v1/finance/summary")
    await member.spend()
    fresh = await member.get("/v1/finance/summary")

    assert cached.content == empty.content
    assert "hit" in cached.headers["cache-status"]
    assert fresh.json()["currencies"]["INR"] == {
        "expensesCents": 50_000,
        "revenuesCents": 0,
        "netCents": -50_000,
        "expenses": {"maintenance": {"cents": 50_000, "entries": 1}},
        "revenues": {},
    }


async def test_colleagues_share_a_summary_and_strangers_do_not(running: Pantry) -> None:
    member, colleague, stranger = [
        await running.member(email) for email in ("user@example.com", "owner@example.com", "free@example.com")
    ]
    await member.spend()
    mine = await member.get("/v1/finance/summary")

    assert (await colleague.get("/v1/finance/summary")).content == mine.content
    assert (await stranger.get("/v1/finance/summary")).json()["currencies"] == {}
    assert (await stranger.get(EXPENSES)).json()["items"] == []
    assert (await stranger.get("/v1/finance/balance")).json() == {}


async def test_an_unknown_property_is_a_clear_refusal_and_leaves_nothing(running: Pantry, pantry: Connection) -> None:
    member = await running.member()

    answer = await member.spend(body={**EXPENSE, "propertyId": 99})

    assert (answer.status_code, answer.json()["code"]) == (422, "PROPERTY_UNKNOWN")
    assert await pantry.fetchval("SELECT count(*) FROM journal_entries") == 0


async def test_a_refused_body_leaves_its_key_free(running: Pantry) -> None:
    member = await running.member()
    refused = await member.post(EXPENSES, {**EXPENSE, "amountCents": -5}, key="k1")
    accepted = await member.post(EXPENSES, EXPENSE, key="k1")

    assert (refused.status_code, accepted.status_code) == (422, 201)


async def test_parallel_duplicates_are_one_expense(running: Pantry, pantry: Connection) -> None:
    member = await running.member()

    answers = await asyncio.gather(*(member.post(EXPENSES, EXPENSE, key="k1") for _ in range(4)))

    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert await pantry.fetchval("SELECT count(*) FROM expenses") == 1


async def test_pages_show_everything_once(running: Pantry) -> None:
    member = await running.member()
    posted = [(await member.spend()).json()["id"] for _ in range(3)]

    first = (await member.get(EXPENSES, limit=2)).json()
    second = (await member.get(EXPENSES, limit=2, cursor=first["nextCursor"])).json()

    assert [item["id"] for item in first["items"] + second["items"]] == posted[::-1]
    assert second["nextCursor"] is None


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 201}, {"cursor": -1}, {"cursor": 2**63}, {"propertyId": "x"}]
)
async def test_impossible_pages_are_refused(running: Pantry, params: dict[str, Any]) -> None:
    answer = await (await running.member()).get(EXPENSES, **params)

    assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_FAILED")


@pytest.mark.parametrize(
    "body",
    [
        b'{"description": "a\\u0000b"}',
        b'{"description": "\\ud800"}',
        b'{"amountCents": NaN}',
        b'{"amountCents": 1e999}',
        b'{"amountCents": ' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b'{"propertyId": [[]]}',
        b"null",
        b"\xff\xfe",
    ],
)
async def test_no_body_makes_a_500(running: Pantry, body: bytes) -> None:
    answer = await (await running.member()).post(EXPENSES, content=body, key="k1")

    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_finance_has_its_own_limit(running: Pantry) -> None:
    answer = await (await running.member()).spend()

    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-tier"]) == ("150", "pro")


async def test_the_chart_of_accounts_is_asked_of_the_database_once(running: Pantry, pantry: Connection) -> None:
    member = await running.member()
    first = await member.get("/v1/reference/accounts")
    await pantry.execute("UPDATE accounts SET name = 'Till' WHERE code = '1000'")
    other_tenant = await running.member("enterprise@example.com")

    assert first.json()["accounts"][0] == {"code": "1000", "name": "Cash on hand", "type": "ASSET"}
    assert (await member.get("/v1/reference/accounts")).content == first.content
    assert (await other_tenant.get("/v1/reference/accounts")).json() == first.json()
