"""Entities through the whole stack: the gateway, the same by method and path, tenants, limits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from app.entities.models import Entity, EntityDeleted, EntityPage
from app.entities.routes import limits_of_operation
from tests.app.client import Member, Pantry
from tests.app.conftest import Connection

CUSTOMER = {"entity_type": "CUSTOMER", "name": "Ann", "city": "Pune"}


NOTES = (f"note {number}" for number in itertools.count())


async def create(member: Member, **attributes: Any) -> dict[str, Any]:
    """Create one more, whatever was created before: the note makes it no repetition of the same request."""
    answer = await member.operate("CREATE", {**CUSTOMER, "note": next(NOTES), **attributes})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_creation_that_is_submitted_twice_within_seconds_is_one(running: Pantry) -> None:
    member = await running.member()
    first, second = [await member.operate("CREATE", CUSTOMER) for _ in range(2)]
    assert (201, 201) == (first.status_code, second.status_code)
    assert first.json() == second.json()
    assert ("auto", "true") == (second.headers["idempotency-key-source"], second.headers["idempotent-replayed"])


async def test_the_life_of_an_entity_through_the_gateway(running: Pantry) -> None:
    member = await running.member()
    made = (await member.operate("CREATE", CUSTOMER)).json()
    reference = {"entity_type": "CUSTOMER", "id": made["id"]}

    changed = await member.operate("UPDATE", {**reference, "city": "Goa"})
    read = await member.operate("READ", reference)
    deleted = await member.operate("DELETE", reference)
    gone = await member.operate("READ", reference)

    assert (made["attributes"], made["version"], made["status"]) == ({"name": "Ann", "city": "Pune"}, 1, "ACTIVE")
    assert (changed.json()["attributes"], changed.json()["version"]) == ({"name": "Ann", "city": "Goa"}, 2)
    assert read.json() == changed.json()
    assert (deleted.status_code, deleted.json()) == (200, {"id": made["id"], "deleted": True})
    assert (gone.status_code, gone.json()["code"]) == (404, "ENTITY_NOT_FOUND")


async def test_the_life_of_an_entity_by_method_and_path(running: Pantry) -> None:
    member = await running.member()
    path = f"/v1/entities/{(await create(member))['id']}"

    replaced = await member.put(path, {"status": "ARCHIVED", "attributes": {"name": "Eve"}})
    read = await member.get(path)
    deleted = await member.delete(path)

    assert (replaced.json()["attributes"], replaced.json()["status"]) == ({"name": "Eve"}, "ARCHIVED")
    assert read.json() == replaced.json()
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await member.get(path)).status_code == 404


async def test_answers_have_the_shape_that_the_reference_documents(running: Pantry) -> None:
    member = await running.member()
    made = await member.operate("CREATE", CUSTOMER)
    shapes = {
        Entity: made,
        EntityPage: await member.operate("READ", {"entity_type": "CUSTOMER"}),
        EntityDeleted: await member.operate("DELETE", {"entity_type": "CUSTOMER", "id": made.json()["id"]}),
    }

    for model, answer in shapes.items():
        assert model.model_validate_json(answer.content, extra="forbid").model_dump(mode="json") == answer.json()


async def test_a_read_without_an_id_lists_what_has_all_given_attributes(running: Pantry) -> None:
    member = await running.member()
    pune = [(await create(member))["id"] for _ in range(3)]
    await create(member, city="Goa")
    await create(member, entity_type="LEAD")

    first = (await member.operate("READ", {"entity_type": "CUSTOMER", "city": "Pune"}, limit=2)).json()
    rest = (
        await member.operate("READ", {"entity_type": "CUSTOMER", "city": "Pune"}, limit=2, cursor=first["nextCursor"])
    ).json()

    assert [item["id"] for item in first["items"] + rest["items"]] == pune[::-1]
    assert len((await member.get("/v1/entities", entity_type="customer")).json()["items"]) == 4
    assert len((await member.get("/v1/entities")).json()["items"]) == 5


async def test_a_change_of_an_old_version_is_a_conflict(running: Pantry) -> None:
    member = await running.member()
    made = await create(member)
    path = f"/v1/entities/{made['id']}"
    await member.put(path, {"version": 1, "name": "Bea"})

    late = await member.put(path, {"version": 1, "name": "Eve"})

    assert (late.status_code, late.json()["code"]) == (409, "VERSION_CONFLICT")
    assert (await member.delete(path, version=1)).status_code == 409


async def test_a_member_deletes_only_their_own_and_a_manager_anything(running: Pantry) -> None:
    member, manager = await running.member(), await running.member("manager@example.com")
    theirs = f"/v1/entities/{(await create(manager))['id']}"
    mine = f"/v1/entities/{(await create(member))['id']}"

    refused = await member.delete(theirs)

    assert (refused.status_code, refused.json()["code"]) == (403, "DELETE_FORBIDDEN")
    assert (await manager.delete(mine)).status_code == 204


async def test_nobody_reaches_another_tenants_entity(running: Pantry) -> None:
    path = f"/v1/entities/{(await create(await running.member()))['id']}"
    stranger = await running.member("enterprise@example.com")

    answers = [await stranger.get(path), await stranger.put(path, {"name": "x"}), await stranger.delete(path)]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert (await stranger.get("/v1/entities")).json()["items"] == []


async def test_a_foreign_and_an_unknown_organization_are_one_answer(running: Pantry) -> None:
    def shown(answer: Any) -> tuple[int, Any]:
        return answer.status_code, {key: value for key, value in answer.json().items() if key != "requestId"}

    foreign = await (await running.member(organization=2)).get("/v1/entities")
    unknown = await (await running.member(organization=4711)).get("/v1/entities")

    assert foreign.status_code == 403
    assert shown(foreign) == shown(unknown)


async def test_with_two_organizations_the_header_decides_and_without_it_the_question_is_asked(
    running: Pantry, pantry: Connection
) -> None:
    await pantry.execute("INSERT INTO memberships SELECT id, 3 FROM actors WHERE email = 'user@example.com'")
    silent, first, third = [await running.member(organization=one) for one in (None, 1, 3)]
    await create(third)

    asked = await silent.get("/v1/entities")

    assert (asked.status_code, asked.json()["code"]) == (400, "ORGANIZATION_REQUIRED")
    assert [len((await one.get("/v1/entities")).json()["items"]) for one in (first, third)] == [0, 1]
    assert len((await silent.get("/auth/resolve-membership")).json()["organizations"]) == 2


@pytest.mark.parametrize(
    ("body", "policies"),
    [
        ({"operation": "READ"}, ("entities",)),
        ({"operation": "CREATE"}, ("entities", "write")),
        ({"operation": "UPDATE"}, ("entities", "write")),
        ({"operation": "DELETE"}, ("entities", "delete")),
        ({"operation": ["DELETE"]}, ("entities",)),
        ({}, ("entities",)),
    ],
)
def test_the_gateway_is_charged_by_its_operation(body: dict[str, Any], policies: tuple[str, ...]) -> None:
    assert limits_of_operation(body) == policies


async def test_a_member_on_pro_reads_a_hundred_times_a_minute(running: Pantry) -> None:
    member = await running.member()
    answers = [await member.operate("READ", {"entity_type": "CUSTOMER"}) for _ in range(102)]

    assert [answer.status_code for answer in answers] == [200] * 100 + [429] * 2
    assert answers[-1].json()["code"] == "RATE_LIMIT_EXCEEDED"
    assert int(answers[-1].headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("email", "limit"),
    [
        ("free@example.com", "20"),
        ("manager@example.com", "120"),
        ("admin@example.com", "150"),
        ("owner@example.com", "200"),
    ],
)
async def test_tier_and_role_decide_how_often(running: Pantry, email: str, limit: str) -> None:
    answer = await (await running.member(email)).operate("READ", {"entity_type": "CUSTOMER"})

    assert answer.headers["x-ratelimit-limit"] == limit


async def test_deleting_is_the_scarcest_of_all(running: Pantry) -> None:
    member = await running.member()
    made = [(await create(member))["id"] for _ in range(6)]

    codes = [(await member.delete(f"/v1/entities/{entity}")).status_code for entity in made]

    assert codes == [204] * 5 + [429]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"operation": "READ", "entity_data": {"entity_type": "A", "x": "a\\u0000b"}}', 422),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A", "\\u0000": 1}}', 422),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A\\u0000"}}', 422),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A", "x": "\\ud800"}}', 400),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A", "x": NaN}}', 400),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A", "x": 99999999999999999999999}}', 422),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A", "x": ' + b"[" * 40 + b"]" * 40 + b"}}", 422),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A", "x": "' + b"x" * 40_000 + b'"}}', 422),
        (b'{"operation": "CREATE", "entity_data": {"entity_type": "A", "x": "' + b"x" * 70_000 + b'"}}', 413),
        (b'{"operation": "EXPLODE", "entity_data": {"entity_type": "A"}}', 422),
        (b'{"operation": "UPDATE", "entity_data": {"entity_type": "A"}}', 422),
        (b'{"operation": "READ", "entity_data": {"entity_type": "A", "id": "1"}}', 422),
        (b'{"operation": "READ", "entity_data": {"entity_type": "A", "id": 9223372036854775808}}', 422),
        (b'{"operation": "READ", "entity_data": []}', 422),
        (b"[" * 60_000, 400),
        (b"", 400),
    ],
)
async def test_no_body_makes_a_500(running: Pantry, body: bytes, status: int) -> None:
    answer = await (await running.member()).post("/v1/entities", content=body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("path", ["/v1/entities/0", "/v1/entities/x", "/v1/entities/9223372036854775808"])
async def test_an_impossible_id_is_refused(running: Pantry, path: str) -> None:
    assert (await (await running.member()).get(path)).status_code == 422


async def test_a_nul_in_the_address_is_refused(running: Pantry) -> None:
    assert (await (await running.member()).get("/v1/entities", entity_type="A\0")).status_code == 422


async def test_strangers_share_the_public_quota_whatever_route_they_try(running: Pantry) -> None:
    tried = [await running.http.post("/v1/entities", json={"operation": "READ"}) for _ in range(10)]
    tried += [await running.http.get("/v1/finance/balance") for _ in range(6)]
    assert [401] * 15 + [429] == [answer.status_code for answer in tried]
    assert "15" == tried[0].headers["x-ratelimit-limit"]
    assert ["public"] == tried[-1].json()["violated-policies"]
