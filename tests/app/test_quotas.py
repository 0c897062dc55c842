"""The quotas of the contract for the six people of the demo, end to end, in memory and on Redis.

What a quota allows is spent at the limiter but for the last two units; the requests that take the last one, and ask for one
more, are real ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from app.profile import b1
from b1.limiter import Caller
from tests.app import client
from tests.app.client import Member, Pantry
from tests.app.conftest import Connection

ADDRESS = "127.0.0.1"  # of httpx's transport
SECRET = "a test secret of 32 characters!!"
READ = 100


class Person(NamedTuple):
    """Somebody of the demo: role, tier, and the quota of each class."""

    role: str
    tier: str
    entities: int
    transactions: int
    general: int


PEOPLE = {
    "user@example.com": Person("MEMBER", "pro", 100, 150, 100),
    "manager@example.com": Person("MANAGER", "pro", 120, 180, 100),
    "admin@example.com": Person("ORG_ADMIN", "pro", 150, 225, 100),
    "owner@example.com": Person("ORG_OWNER", "pro", 200, 300, 100),
    "free@example.com": Person("MEMBER", "free", 20, 150, 20),
    "enterprise@example.com": Person("ORG_OWNER", "enterprise", 200, 300, 500),
}


@pytest.fixture(params=["memory", "redis"])
async def anywhere(request: pytest.FixtureRequest, pantry: Connection, postgres_url: str) -> AsyncIterator[Pantry]:
    settings = {"DATABASE_URL": postgres_url, "AUTH_JWT_SECRET": SECRET, "B1_DEMO": "1"}
    if request.param == "redis":
        settings["REDIS_URL"] = request.getfixturevalue("redis_url")
    async with client.running(settings) as running:
        yield running
        assert b1.runtime.limiter.snapshot().mode == request.param


async def _spend(policy: str, caller: Caller, units: int) -> None:
    assert (await b1.runtime.limiter.check((policy,), caller, cost=units)).allowed


async def _log_in(running: Pantry, email: str, person: Person) -> tuple[Member, Caller]:
    answer = (await running.log_in(email)).json()
    organization = answer["organizations"][0]["id"]
    caller = Caller(ADDRESS, str(answer["actor"]["id"]), str(organization), person.role, person.tier)
    return Member(running.http, answer["accessToken"], organization), caller


def _told(answer: httpx.Response) -> tuple[int, str, str]:
    """Return status, limit and tier; each header is there once."""
    for name in ("x-ratelimit-limit", "x-ratelimit-remaining", "ratelimit", "ratelimit-policy"):
        assert len(answer.headers.get_list(name)) == 1, name
    return answer.status_code, answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-tier"]


async def _all_of(policy: str, quota: int, caller: Caller, member: Member, path: str) -> None:
    """Show that exactly `quota` requests pass, and what the answers say."""
    await _spend(policy, caller, quota - 1)
    last, over = await member.get(path), await member.get(path)
    assert (200, str(quota), caller.tier) == _told(last)
    assert (429, str(quota), caller.tier) == _told(over)
    assert ("0", str(quota)) == (last.headers["x-ratelimit-remaining"], last.headers["x-ratelimit-used"])
    assert [policy] == over.json()["violated-policies"]
    assert 1 <= int(over.headers["retry-after"]) <= 61


async def _of_general(person: Person, caller: Caller, member: Member) -> None:
    """Show the general quota on a route that names no class; reads have one of their own, which may be the narrower."""
    path = "/v1/reference/accounts"
    if person.general > READ:
        await _all_of("read", READ, caller, member, path)
        await _spend("general", caller, person.general - 1)
    else:
        await _all_of("general", person.general, caller, member, path)
    over: dict[str, Any] = (await member.get(path)).json()
    assert {"general": person.general, "read": READ} == {one["policy"]: one["limit"] for one in over["limits"]}


async def test_everybody_has_the_quotas_of_role_and_tier(anywhere: Pantry) -> None:
    for email, person in PEOPLE.items():
        member, caller = await _log_in(anywhere, email, person)
        await _all_of("entities", person.entities, caller, member, "/v1/entities")
        await _all_of("transactions", person.transactions, caller, member, "/v1/finance/summary")
        await _all_of("membership", 200, caller, member, "/auth/resolve-membership")
        await _of_general(person, caller, member)


async def test_changes_searches_and_strangers_have_quotas_of_their_own(anywhere: Pantry) -> None:
    member, caller = await _log_in(anywhere, "owner@example.com", PEOPLE["owner@example.com"])
    stranger = Caller(ADDRESS)

    await _spend("write", caller, 19)
    created = [await member.operate("CREATE", {"entity_type": "CUSTOMER", "name": name}) for name in ("Ann", "Bo")]
    assert ["20", "20"] == [answer.headers["x-ratelimit-limit"] for answer in created]
    assert (429, "20", "pro") == _told(created[1])

    await _spend("delete", caller, 4)
    deleted = [await member.delete("/v1/entities/999999") for _ in range(2)]
    assert [(404, "5", "pro"), (429, "5", "pro")] == [_told(answer) for answer in deleted]

    for whom, quota in ((caller, 60), (stranger, 18)):
        await _spend("search", whom, quota - 1)
        found = [await b1.runtime.limiter.check(("search",), whom, blame="nobody") for _ in range(2)]
        assert [(True, quota), (False, quota)] == [(one.allowed, one.nearest and one.nearest.limit) for one in found]

    await _spend("public", stranger, 14)
    lost = [await anywhere.http.get("/nothing/here") for _ in range(2)]
    assert [(404, "15", "free"), (429, "15", "free")] == [_told(answer) for answer in lost]
