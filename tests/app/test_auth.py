"""Log-in and membership through the whole stack."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.auth.service import passwords
from tests.app.client import Pantry
from tests.app.conftest import Connection


async def test_a_log_in_answers_with_a_token_and_where_it_may_be_used(running: Pantry) -> None:
    answer = await running.log_in()

    body = answer.json()
    assert answer.status_code == 200
    assert (body["tokenType"], body["expiresIn"]) == ("Bearer", 3600)
    assert body["actor"]["email"] == "user@example.com"
    assert body["organizations"] == [{"id": 1, "name": "Seaside Pantry", "role": "MEMBER", "tier": "pro"}]


async def test_an_unknown_account_and_a_wrong_password_are_one_answer(running: Pantry) -> None:
    def shown(answer: Any) -> tuple[Any, ...]:
        told = {key: value for key, value in answer.json().items() if key != "requestId"}
        headers = {key: value for key, value in answer.headers.items() if key not in ("x-request-id", "date")}
        return answer.status_code, told, headers

    wrong = await running.log_in(password="guess")
    unknown = await running.log_in("nobody@example.com", "guess")

    assert wrong.json()["code"] == "INVALID_LOGIN"
    assert wrong.status_code == 401
    assert shown(wrong) == shown(unknown)


@pytest.mark.parametrize("email", ["user@example.com", "nobody@example.com"])
async def test_the_sixth_failure_within_an_hour_is_refused_whether_the_account_exists_or_not(
    running: Pantry, email: str
) -> None:
    codes = [(await running.log_in(email, "guess")).status_code for _ in range(6)]

    assert codes == [401, 401, 401, 401, 401, 429]


async def test_guesses_that_arrive_together_are_counted_as_exactly_as_one_by_one(running: Pantry) -> None:
    answers = await asyncio.gather(*(running.log_in(password=f"guess {number}") for number in range(12)))

    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


async def test_an_unknown_account_costs_one_hash_as_a_known_one_does(running: Pantry) -> None:
    before = passwords.snapshot().checked
    await running.log_in(password="guess")
    known = passwords.snapshot().checked
    await running.log_in("nobody@example.com", "guess")

    assert (known - before, passwords.snapshot().checked - known) == (1, 1)


async def test_failures_keep_the_right_password_out_too_but_no_other_account(running: Pantry) -> None:
    for _ in range(5):
        await running.log_in(password="guess")

    assert (await running.log_in()).status_code == 429
    assert (await running.log_in("owner@example.com")).status_code == 200


async def test_an_address_that_the_account_has_used_has_fifteen_failures(running: Pantry) -> None:
    await running.log_in()
    codes = [(await running.log_in(password="guess")).status_code for _ in range(12)]

    assert codes == [401] * 12


async def test_success_spends_nothing(running: Pantry) -> None:
    answers = [await running.log_in() for _ in range(20)]

    assert {answer.status_code for answer in answers} == {200}


async def test_resolve_membership_says_who_and_where(running: Pantry) -> None:
    member = await running.member("manager@example.com")

    answer = await member.get("/auth/resolve-membership")

    assert answer.status_code == 200
    assert answer.json()["organizations"][0]["role"] == "MANAGER"
    assert answer.headers["x-ratelimit-limit"] == "200"


async def test_membership_is_asked_of_the_database_once(running: Pantry, pantry: Connection) -> None:
    member = await running.member()
    first = await member.get("/auth/resolve-membership")
    await pantry.execute("UPDATE organizations SET name = 'Renamed'")

    assert (await member.get("/auth/resolve-membership")).json() == first.json()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"email": "a@b.c"}', 422),
        (b'{"email": "a\\u0000@b.c", "password": "x"}', 422),
        (b'{"email": "\\ud800@b.c", "password": "x"}', 422),
        (b'{"email": 1, "password": {}}', 422),
        (b"{", 400),
        (b"[]", 422),
        (b"", 422),
    ],
)
async def test_an_unreadable_log_in_is_a_clear_problem(running: Pantry, body: bytes, status: int) -> None:
    answer = await running.http.post("/auth/login", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/auth/resolve-membership", "/v1/entities", "/v1/finance/balance"])
async def test_without_a_token_there_is_nothing_to_see(running: Pantry, path: str) -> None:
    answer = await running.http.get(path)

    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


async def test_a_stranger_learns_nothing_about_a_bodys_fields(running: Pantry) -> None:
    answer = await running.http.post("/v1/finance/expenses", json={})

    assert answer.status_code == 401
