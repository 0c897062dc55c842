"""What Pantry caches: repeated reads ask no database, and who has written reads what they wrote, with Redis and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from app.caching import MEMBERSHIP_CHANGED
from app.fields import CanonicalId
from app.profile import b1
from b1.db import Database
from tests.app import client
from tests.app.client import REVENUE, Member, Pantry
from tests.app.conftest import Connection

CUSTOMER = {"entity_type": "CUSTOMER", "name": "Ann"}
REVENUES, EXPENSES = "/v1/finance/revenues", "/v1/finance/expenses"
OF_MONEY = (EXPENSES, f"{EXPENSES}?propertyId=1&limit=2", REVENUES, "/v1/finance/summary")


@pytest.fixture(params=["memory", "redis"])
async def stack(
    request: pytest.FixtureRequest, pantry: Connection, postgres_url: str
) -> AsyncIterator[tuple[Pantry, Connection]]:
    """Pantry with everything in memory, and with Redis; its quotas are out of the way."""
    redis = {"REDIS_URL": request.getfixturevalue("redis_url")} if request.param == "redis" else {}
    settings = {"DATABASE_URL": postgres_url, "AUTH_JWT_SECRET": "a test secret of 32 characters!!", **redis}
    async with client.running({**settings, "B1_LIMIT_SCALE": "100"}) as one:
        yield one, pantry


async def created(member: Member, **attributes: Any) -> dict[str, Any]:
    answer = await member.operate("CREATE", {**CUSTOMER, **attributes})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def is_hit(answer: httpx.Response) -> bool:
    return "; hit" in answer.headers.get("cache-status", "")


async def warm(member: Member, *paths: str) -> None:
    """Read until the cache answers."""
    for path in paths:
        assert (await member.get(path)).status_code == 200, path
        assert is_hit(await member.get(path)), path


async def gateway(member: Member, entity: int) -> httpx.Response:
    return await member.operate("READ", {"entity_type": "CUSTOMER", "id": entity})


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What requests run in the database from here on; what is done in the background is left out."""
    seen: list[str] = []

    def watch(verb: Callable[..., Any]) -> Callable[..., Any]:
        def run(database: Database, query: str, *args: Any, **options: Any) -> Any:
            if options.get("priority") != "background":
                seen.append(query)
            return verb(database, query, *args, **options)

        return run

    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        monkeypatch.setattr(Database, name, watch(getattr(Database, name)))
    return seen


CHANGES: dict[str, Callable[[Member, int], Awaitable[httpx.Response]]] = {
    "replaced": lambda member, entity: member.put(f"/v1/entities/{entity}", {"name": "Eve"}),
    "updated": lambda member, entity: member.operate(
        "UPDATE", {"entity_type": "CUSTOMER", "id": entity, "name": "Eve"}
    ),
    "deleted": lambda member, entity: member.delete(f"/v1/entities/{entity}"),
    "deleted by the gateway": lambda member, entity: member.operate(
        "DELETE", {"entity_type": "CUSTOMER", "id": entity}
    ),
}


async def test_who_changes_an_entity_reads_the_change_at_once(stack: tuple[Pantry, Connection]) -> None:
    running, _ = stack
    member = await running.member("manager@example.com")

    for number, (change, do) in enumerate(CHANGES.items()):
        entity = (await created(member, note=number))["id"]
        path = f"/v1/entities/{entity}"
        await warm(member, path, "/v1/entities", "/v1/entities?entity_type=customer")
        assert (await gateway(member, entity)).json()["attributes"]["name"] == "Ann"

        assert (await do(member, entity)).status_code in (200, 204), change

        one, again = await member.get(path), await gateway(member, entity)
        lists = [await member.get("/v1/entities", **query) for query in ({}, {"entity_type": "customer"})]
        shown = [
            [item["attributes"]["name"] for item in answer.json()["items"] if item["id"] == entity] for answer in lists
        ]
        if change.startswith("deleted"):
            assert ([404, 404], [[], []]) == ([one.status_code, again.status_code], shown), change
        else:
            assert ["Eve", "Eve"] == [answer.json()["attributes"]["name"] for answer in (one, again)], change
            assert [["Eve"], ["Eve"]] == shown, change


async def test_a_new_entity_is_in_the_list_at_once_and_leaves_the_others_cached(
    stack: tuple[Pantry, Connection],
) -> None:
    running, _ = stack
    member = await running.member()
    first = (await created(member, note=1))["id"]
    await warm(member, "/v1/entities", f"/v1/entities/{first}")

    second = (await created(member, note=2))["id"]

    assert [second, first] == [item["id"] for item in (await member.get("/v1/entities")).json()["items"]]
    assert is_hit(await member.get(f"/v1/entities/{first}"))


async def test_who_posts_reads_all_the_money_at_once(stack: tuple[Pantry, Connection]) -> None:
    running, _ = stack
    member = await running.member()

    for path, body in ((EXPENSES, client.EXPENSE), (REVENUES, REVENUE)):
        await warm(member, *OF_MONEY)
        before = (await member.get("/v1/finance/summary")).json()["currencies"].get("INR", {})

        posted = await member.spend(path, body)

        assert posted.status_code == 201, posted.text
        assert (await member.get(path)).json()["items"] == [posted.json()]
        assert before != (await member.get("/v1/finance/summary")).json()["currencies"]["INR"]
    assert [1, 1, 1] == [len((await member.get(one)).json()["items"]) for one in OF_MONEY[:3]]


async def test_a_refused_posting_leaves_the_cache_as_it_is(stack: tuple[Pantry, Connection]) -> None:
    running, pantry = stack
    member = await running.member()
    await warm(member, *OF_MONEY)

    assert (await member.spend(body={**client.EXPENSE, "propertyId": 99})).status_code == 422

    assert all([is_hit(await member.get(one)) for one in OF_MONEY])
    assert 0 == await pantry.fetchval("SELECT count(*) FROM b1_cache_intents")


async def test_repeated_reads_ask_no_database(stack: tuple[Pantry, Connection], statements: list[str]) -> None:
    running, _ = stack
    member = await running.member()
    entity = (await created(member))["id"]
    cached = (f"/v1/entities/{entity}", "/v1/entities", "/v1/reference/accounts", *OF_MONEY)
    await warm(member, *cached)
    await gateway(member, entity)
    await member.get("/auth/resolve-membership")
    statements.clear()

    for _ in range(3):
        for path in (*cached, "/auth/resolve-membership"):
            await member.get(path)
        await gateway(member, entity)

    assert [] == statements


async def test_a_change_of_one_organisation_leaves_the_others_cached(stack: tuple[Pantry, Connection]) -> None:
    running, _ = stack
    member, stranger = await running.member(), await running.member("free@example.com")
    await warm(stranger, "/v1/entities", "/v1/finance/summary")

    await created(member)
    await member.spend()

    assert is_hit(await stranger.get("/v1/entities"))
    assert is_hit(await stranger.get("/v1/finance/summary"))
    assert (await stranger.get("/v1/entities")).json()["items"] == []


async def test_an_organisation_never_gets_anothers_entity_from_the_cache(stack: tuple[Pantry, Connection]) -> None:
    running, _ = stack
    member, stranger = await running.member(), await running.member("free@example.com")
    entity = (await created(member))["id"]
    await warm(member, f"/v1/entities/{entity}")
    await gateway(member, entity)

    answers = (await stranger.get(f"/v1/entities/{entity}"), await gateway(stranger, entity))

    assert [404, 404] == [answer.status_code for answer in answers]
    assert 401 == (await running.http.get(f"/v1/entities/{entity}")).status_code


async def test_colleagues_share_an_entity_whatever_their_role(stack: tuple[Pantry, Connection]) -> None:
    running, _ = stack
    member, owner = await running.member(), await running.member("owner@example.com")
    entity = (await created(member))["id"]
    await warm(member, f"/v1/entities/{entity}", "/v1/entities")

    found = [await owner.get(path) for path in (f"/v1/entities/{entity}", "/v1/entities")]

    assert [True, True] == [is_hit(answer) for answer in found]


@pytest.mark.parametrize("name", ["007", "+7", " 7", "7_0", "7.0", "0", "-1", "\u0667", "seven"])
def test_an_entity_has_one_path(name: str) -> None:
    """The path is in the tag: by another one it would be cached where no change reaches it."""
    assert 7 == TypeAdapter(CanonicalId).validate_python("7")
    with pytest.raises(ValidationError):
        TypeAdapter(CanonicalId).validate_python(name)


async def test_another_spelling_of_an_id_is_refused(running: Pantry) -> None:
    member = await running.member()
    entity = (await created(member))["id"]
    assert [200, 422, 422] == [
        (await member.get(f"/v1/entities/{name}")).status_code for name in (entity, f"0{entity}", f"%20{entity}")
    ]


async def test_a_change_of_membership_counts_at_once_where_it_is_said(stack: tuple[Pantry, Connection]) -> None:
    running, pantry = stack
    member = await running.member()
    before = (await member.get("/auth/resolve-membership")).json()
    await pantry.execute("UPDATE memberships SET role = 'MANAGER' WHERE actor_id = $1", before["actor"]["id"])
    assert before == (await member.get("/auth/resolve-membership")).json()

    await b1.changed(None, MEMBERSHIP_CHANGED, actor=before["actor"]["id"])

    after = (await member.get("/auth/resolve-membership")).json()
    assert ("MEMBER", "MANAGER") == (before["organizations"][0]["role"], after["organizations"][0]["role"])


async def test_the_check_finds_what_was_changed_past_the_application(stack: tuple[Pantry, Connection]) -> None:
    running, pantry = stack
    member = await running.member()
    entity = (await created(member))["id"]
    await gateway(member, entity)
    await member.get("/v1/reference/accounts")
    await member.get("/auth/resolve-membership")
    clean = await b1.runtime.checker.check()

    await pantry.execute("UPDATE entities SET status = 'ARCHIVED' WHERE id = $1", entity)
    drifted = await b1.runtime.checker.check()

    assert (True, 3, 0) == (clean.is_clean, clean.compared_source, clean.errors)
    assert [f"entity:{entity}:CUSTOMER"] == [finding.key for finding in drifted.findings]


async def test_a_write_takes_no_trip_of_its_own_for_what_it_makes_stale(
    stack: tuple[Pantry, Connection], statements: list[str]
) -> None:
    running, _ = stack
    member = await running.member()
    entity = (await created(member))["id"]
    recorded = b1.runtime.intents.snapshot().recorded
    statements.clear()

    await member.put(f"/v1/entities/{entity}", {"name": "Eve"})

    assert (recorded + 1, 1) == (b1.runtime.intents.snapshot().recorded, len(statements))
    assert "INSERT INTO b1_cache_intents" in statements[0]
