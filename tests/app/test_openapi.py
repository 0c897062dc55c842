"""The document of the API says what the API does."""

from __future__ import annotations

import json
from typing import Any

from app.main import app

DOCUMENT = json.loads(json.dumps(app.openapi()))
OPERATIONS = {
    (method, path): operation for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def headers_of(operation: dict[str, Any]) -> set[str]:
    return {one["name"] for one in operation.get("parameters", ()) if one["in"] == "header"}


def test_every_route_of_the_contract_is_documented() -> None:
    assert set(OPERATIONS) == {
        ("post", "/auth/login"),
        ("get", "/auth/resolve-membership"),
        ("post", "/v1/entities"),
        ("get", "/v1/entities"),
        ("get", "/v1/entities/{id}"),
        ("put", "/v1/entities/{id}"),
        ("delete", "/v1/entities/{id}"),
        ("get", "/v1/reference/accounts"),
        ("post", "/v1/finance/expenses"),
        ("get", "/v1/finance/expenses"),
        ("post", "/v1/finance/revenues"),
        ("get", "/v1/finance/revenues"),
        ("get", "/v1/finance/summary"),
        ("get", "/v1/finance/balance"),
    }


def test_every_route_documents_its_problems() -> None:
    for operation in OPERATIONS.values():
        assert {"401", "422", "429", "503"} <= set(operation["responses"])
        assert "application/problem+json" in operation["responses"]["422"]["content"]


def test_every_route_but_the_log_in_wants_the_token() -> None:
    assert [path for path, operation in OPERATIONS.items() if "security" not in operation] == [("post", "/auth/login")]


def test_headers_are_documented_where_they_count() -> None:
    keyed = {path for path, operation in OPERATIONS.items() if "Idempotency-Key" in headers_of(operation)}
    tenants = {path for path, operation in OPERATIONS.items() if "X-Organization-Id" in headers_of(operation)}

    assert keyed == {("post", "/v1/entities"), ("post", "/v1/finance/expenses"), ("post", "/v1/finance/revenues")}
    assert tenants == {path for path in OPERATIONS if not path[1].startswith("/auth/")}


def test_nothing_refers_to_what_is_not_there() -> None:
    defined = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}

    assert references(DOCUMENT) <= defined
