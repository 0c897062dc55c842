"""What the OpenAPI document says of routes that declare idempotency, and of no other."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Header
from fastapi.openapi.models import OpenAPI

from b1.asgi.openapi import describe_idempotency
from b1.asgi.options import declare
from b1.idempotency import IdempotencyOptions


def document(service_status: int = 409, described_by: str | None = None, **options: Any) -> dict[str, Any]:
    app, router = FastAPI(), APIRouter(prefix="/v1")

    @router.post("/things/{id:int}", status_code=201)
    async def keyed(id: int) -> None: ...

    @router.get("/things/{id:int}")
    async def plain(id: int) -> None: ...

    @router.put("/own", responses={409: {"description": "ours"}})
    async def own(idempotency_key: str = Header()) -> None: ...

    for endpoint in (keyed, own):
        declare(endpoint, idempotency=IdempotencyOptions(**options))
    app.include_router(router)
    for _ in range(2):  # two installations are one
        describe_idempotency(app, service_status, described_by=described_by)
    app.openapi()
    described: dict[str, Any] = app.openapi()
    return described


def test_the_key_its_lifetime_and_the_answers_are_described() -> None:
    operation = document(required=True, ttl_s=3600, transactional=True)["paths"]["/v1/things/{id}"]["post"]
    (key,) = [one for one in operation["parameters"] if one["in"] == "header"]
    assert (key["name"], key["required"], key["schema"]["maxLength"]) == ("Idempotency-Key", True, 255)
    assert operation["x-idempotency-ttl"] == 3600
    assert operation["x-idempotency"] == {
        "required": True,
        "ttl": 3600,
        "mismatchStatus": 409,
        "transactional": True,
    }
    assert {"Idempotent-Replayed", "X-Idempotency-Replay", "X-Original-Timestamp", "Idempotency-Stored"} == set(
        operation["responses"]["201"]["headers"]
    )
    assert "Retry-After" in operation["responses"]["409"]["headers"]
    assert {"201", "400", "409"} <= operation["responses"].keys()


def test_a_route_that_makes_keys_says_for_how_long() -> None:
    operation = document(auto_key=True)["paths"]["/v1/things/{id}"]["post"]
    assert operation["x-idempotency"]["autoKeyTtl"] == 10.0
    assert "Idempotency-Key-Source" in operation["responses"]["201"]["headers"]
    assert operation["parameters"][-1]["required"] is False


def test_the_status_of_the_draft_is_the_service_s_or_the_route_s() -> None:
    for described in (document(422), document(409, mismatch_status=422)):
        operation = described["paths"]["/v1/things/{id}"]["post"]
        assert operation["x-idempotency"]["mismatchStatus"] == 422 and "422" in operation["responses"]


def test_the_application_s_own_words_stay() -> None:
    operation = document()["paths"]["/v1/own"]["put"]
    names = [one["name"].lower() for one in operation["parameters"]]
    assert names == ["idempotency-key"] and operation["responses"]["409"]["description"] == "ours"


def test_other_routes_say_nothing() -> None:
    described = document()
    assert "x-idempotency" not in described["paths"]["/v1/things/{id}"]["get"]
    assert "x-idempotency" not in str(document(enabled=False))


def test_the_document_is_valid_and_names_the_page() -> None:
    described = document(422, "https://example.com/keys", auto_key=True)
    OpenAPI.model_validate(described)
    assert described["paths"]["/v1/own"]["put"]["x-idempotency"]["documentation"] == "https://example.com/keys"


def test_another_kind_of_application_stays_as_it_is() -> None:
    class Plain:
        pass

    plain = Plain()
    describe_idempotency(plain)
    assert not hasattr(plain, "openapi")
