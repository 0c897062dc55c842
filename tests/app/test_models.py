"""What the bodies accept, and that everything Postgres would choke on is refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from app.auth.models import LoginRequest
from app.entities.attributes import DEPTH_MAX
from app.entities.models import EntityReplacement, EntityRequest
from app.finance.models import ExpenseRequest

EXPENSE = {
    "propertyId": 1,
    "category": "maintenance",
    "amountCents": 50_000,
    "currency": "INR",
    "description": "Test expense",
    "expenseDate": "2025-12-13T10:00:00Z",
    "paymentMode": "cash",
}


def expense(**changes: Any) -> ExpenseRequest:
    return ExpenseRequest.model_validate({**EXPENSE, **changes})


def error_of(refused: pytest.ExceptionInfo[ValidationError]) -> str:
    [error] = refused.value.errors()
    return error["type"]


def nested(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


def test_the_expense_of_the_contract_is_accepted() -> None:
    assert expense().expenseDate == datetime(2025, 12, 13, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-12-13", datetime(2025, 12, 13, tzinfo=UTC)),
        ("2025-12-13T10:00:00", datetime(2025, 12, 13, 10, tzinfo=UTC)),
        ("2025-12-13T10:00:00+05:30", datetime(2025, 12, 13, 4, 30, tzinfo=UTC)),
    ],
)
def test_a_date_without_a_zone_is_utc(text: str, moment: datetime) -> None:
    assert expense(expenseDate=text).expenseDate == moment


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"amountCents": 0}, "greater_than_equal"),
        ({"amountCents": -1}, "greater_than_equal"),
        ({"amountCents": 2**63}, "less_than_equal"),
        ({"amountCents": 10**40}, "less_than_equal"),
        ({"amountCents": 1.5}, "int_type"),
        ({"amountCents": float("nan")}, "int_type"),
        ({"amountCents": "500"}, "int_type"),
        ({"amountCents": True}, "int_type"),
        ({"propertyId": 0}, "greater_than_equal"),
        ({"propertyId": 2**63}, "less_than_equal"),
        ({"currency": "inr"}, "string_pattern_mismatch"),
        ({"currency": "INR\0"}, "string_pattern_mismatch"),
        ({"currency": "INR\n"}, "string_pattern_mismatch"),
        ({"category": "a\0b"}, "nul_in_text"),
        ({"category": "   "}, "string_too_short"),
        ({"category": "x" * 65}, "string_too_long"),
        ({"description": "a\0b"}, "nul_in_text"),
        ({"description": "\ud800"}, "string_unicode"),
        ({"description": "x" * 1001}, "string_too_long"),
        ({"paymentMode": "barter"}, "literal_error"),
        ({"expenseDate": 50_000}, "date_as_text"),
        ({"expenseDate": "50000"}, "date_as_text"),
        ({"expenseDate": "yesterday"}, "date_as_text"),
        ({"expenseDate": "2025-13-01"}, "datetime_from_date_parsing"),
        ({"expenseDate": "1969-12-31"}, "date_range"),
        ({"expenseDate": "0001-01-01T00:00:00+14:00"}, "date_range"),
        ({"expenseDate": "9999-12-31T23:59:59-14:00"}, "date_range"),
    ],
)
def test_what_the_ledger_cannot_hold_is_refused_by_name(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationError) as refused:
        expense(**changes)

    assert error_of(refused) == error


def test_members_without_a_meaning_of_their_own_are_attributes() -> None:
    request = EntityRequest.model_validate(
        {
            "operation": "CREATE",
            "entity_data": {"entity_type": "customer", "name": "Ann", "attributes": {"status": "vip"}},
        }
    )

    assert request.entity_data.entity_type == "CUSTOMER"
    assert json.loads(request.entity_data.text) == {"name": "Ann", "status": "vip"}


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE"])
def test_a_change_names_its_entity(operation: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EntityRequest.model_validate({"operation": operation, "entity_data": {"entity_type": "CUSTOMER"}})

    assert error_of(refused) == "id_missing"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("a\0b", "nul_in_text"),
        (["a\0b"], "nul_in_text"),
        ({"a\0b": 1}, "nul_in_text"),
        ("\ud800", "half_a_character"),
        (float("nan"), "number_not_finite"),
        ([float("inf")], "number_not_finite"),
        (2**63, "number_too_large"),
        (-(10**400), "number_too_large"),
        (nested(DEPTH_MAX), "attributes_too_deep"),
        (nested(2000), "attributes_too_deep"),
        ("x" * 33_000, "attributes_too_large"),
    ],
)
def test_what_jsonb_cannot_hold_is_refused_by_name(value: Any, error: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EntityReplacement.model_validate({"name": value})

    assert error_of(refused) == error


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**63) + 1, 2**63 - 1, 1e308, "é\u2028", nested(DEPTH_MAX - 2), {}, []]
)
def test_everything_else_comes_through_unchanged(value: Any) -> None:
    assert json.loads(EntityReplacement.model_validate({"name": value}).text) == {"name": value}


def test_an_address_is_compared_in_lower_case_and_a_password_as_it_is() -> None:
    login = LoginRequest.model_validate({"email": " User@Example.COM ", "password": " pa55 "})

    assert (login.email, login.password.get_secret_value()) == ("user@example.com", " pa55 ")
    assert "pa55" not in repr(login)


@pytest.mark.parametrize(
    "body",
    [{"email": "a\0@b.c"}, {"password": ""}, {"password": "x" * 1025}, {"password": None}, {"email": "\ud800@b"}],
)
def test_an_impossible_login_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoginRequest.model_validate({"email": "a@b.c", "password": "x", **body})
