"""What the first page promises, with the state in memory and in Redis: a retried write, zero-sum books, exact limits."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest

from tests.real.client import EXPENSE, Client
from tests.real.server import Started
from tests.servers import from_outside

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["memory", "redis"])
def pantry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pantry_url: str
) -> Iterator[Started]:
    redis: dict[str, str] = {}
    if request.param == "redis":
        redis = {"REDIS_URL": request.getfixturevalue("module_redis").url}
    with Started(tmp_path_factory.mktemp("pantry"), DATABASE_URL=pantry_url, **redis) as server:
        yield server


@pytest.fixture
def user(pantry: Started) -> Client:
    return pantry.client.log_in()


def rows(url: str, description: str) -> int:
    import asyncpg

    async def count() -> int:
        connection = await asyncpg.connect(url)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM expenses WHERE description = $1", description))
        finally:
            await connection.close()

    return from_outside(count())


class TestARetriedWrite:
    def test_same_same_other_is_created_replayed_refused_and_happens_once(self, user: Client, pantry_url: str) -> None:
        key, description = str(uuid.uuid4()), str(uuid.uuid4())
        expense = {**EXPENSE, "description": description}
        first, second = user.spend(key, expense), user.spend(key, expense)
        other = user.spend(key, {**expense, "amountCents": 75_000})
        assert [201, 201, 409] == [first.status, second.status, other.status]
        assert second.body == first.body
        assert (second.headers["idempotent-replayed"], second.headers["x-idempotency-replay"]) == ("true", "true")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", second.headers["x-original-timestamp"])
        assert "idempotent-replayed" not in first.headers
        assert other.code == "IDEMPOTENCY_KEY_REUSED"
        assert rows(pantry_url, description) == 1

    def test_a_missing_key_is_asked_for(self, user: Client) -> None:
        answer = user.post("/v1/finance/expenses", EXPENSE)
        assert (answer.status, answer.code) == (400, "IDEMPOTENCY_KEY_MISSING")

    def test_somebody_elses_equal_key_is_another_key(self, pantry: Started, user: Client) -> None:
        key = str(uuid.uuid4())
        mine, theirs = user.spend(key), pantry.client.log_in("manager@example.com").spend(key)
        assert (mine.status, theirs.status) == (201, 201)
        assert mine.json["id"] != theirs.json["id"]

    def test_the_books_balance_and_the_totals_follow(self, user: Client) -> None:
        before = user.get("/v1/finance/summary").json["currencies"].get("INR", {"expensesCents": 0})["expensesCents"]
        assert user.spend(str(uuid.uuid4())).status == 201
        after = user.get("/v1/finance/summary").json["currencies"]["INR"]["expensesCents"]
        assert after - before == EXPENSE["amountCents"]
        books = user.get("/v1/finance/balance").json
        assert books and {0} == {one["differenceCents"] for one in books.values()}
        assert books["INR"]["debitsCents"] == books["INR"]["creditsCents"] > 0


class TestExactLimits:
    def test_of_110_reads_100_pass_and_the_rest_are_told_everything(self, pantry: Started) -> None:
        admin = pantry.client.log_in("manager@example.com")  # × 1.2, and nobody else's quota
        answers = [admin.read() for _ in range(130)]
        assert [200] * 120 + [429] * 10 == [answer.status for answer in answers]

        member = pantry.client.log_in()
        answers = [member.read() for _ in range(110)]
        assert [200] * 100 + [429] * 10 == [answer.status for answer in answers]
        first, last = answers[0], answers[-1]
        assert {name: last.headers[name] for name in ("x-ratelimit-limit", "x-ratelimit-remaining")} == {
            "x-ratelimit-limit": "100",
            "x-ratelimit-remaining": "0",
        }
        assert (last.headers["x-ratelimit-used"], last.headers["x-ratelimit-window"]) == ("100", "60")
        assert last.headers["x-ratelimit-tier"] == "pro"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", last.headers["x-ratelimit-reset"])
        assert last.headers["ratelimit-policy"] == '"entities";q=100;w=60'
        assert re.fullmatch(r'"entities";r=0;t=\d+', last.headers["ratelimit"])
        assert 1 <= int(last.headers["retry-after"]) <= 61
        assert last.code == "RATE_LIMIT_EXCEEDED"
        assert {"retryAfter", "currentTier", "upgradeUrl", "limits", "violated-policies"} <= {*last.json}
        assert (last.json["violated-policies"], last.json["currentTier"]) == (["entities"], "pro")
        assert (first.headers["x-ratelimit-remaining"], first.headers["x-ratelimit-used"]) == ("99", "1")
        assert "retry-after" not in first.headers

    def test_another_organisation_is_not_touched(self, pantry: Started) -> None:
        answers = [pantry.client.log_in("free@example.com").read() for _ in range(21)]
        assert [200] * 20 + [429] == [answer.status for answer in answers]


def test_health_says_where_the_state_is(pantry: Started, request: pytest.FixtureRequest) -> None:
    report = pantry.client.get("/health/detailed").json
    on_redis = "redis" in str(request.node.name)
    assert report["components"]["rate_limiter"] == {"status": "healthy", "mode": "redis" if on_redis else "memory"}
    assert report["components"]["redis"]["status"] == ("healthy" if on_redis else "disabled")
    assert report["budgets"]["redis"]["in_use"] == int(on_redis)
