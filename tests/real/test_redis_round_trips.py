"""How many commands a request of the running application sends to Redis, counted by a proxy in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.app import client
from tests.app.client import EXPENSE, Member
from tests.app.conftest import Connection, pantry, schema  # noqa: F401  # fixtures
from tests.servers import port_of
from tests.store.proxy import Proxy

pytestmark = pytest.mark.real

# What the link itself says now and then; no request waits for it.
_OF_THE_LINK = frozenset({"PING", "HELLO", "CLIENT", "AUTH", "SELECT", "SCRIPT", "INFO", "COMMAND", "SUBSCRIBE"})


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(port_of(redis_url))
    await proxy.listen()
    yield proxy
    await proxy.aclose()


@pytest.fixture
async def member(pantry: Connection, postgres_url: str, proxy: Proxy) -> AsyncIterator[Member]:  # noqa: F811
    settings = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": proxy.url,
        "AUTH_JWT_SECRET": "a test secret of 32 characters!!",
    }
    async with client.running(settings) as one:
        member = await one.member()
        assert (await member.get("/v1/entities", entity_type="CUSTOMER")).status_code == 200  # identity is in L1 now
        yield member


def _sent(proxy: Proxy) -> list[str]:
    found = [name for name in proxy.commands if name not in _OF_THE_LINK]
    proxy.commands.clear()
    return found


async def _all_sent(proxy: Proxy, count: int) -> list[str]:
    """Return what was sent, and wait for what no request waits for."""
    found: list[str] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += _sent(proxy)
            await asyncio.sleep(0.01)
    return found + _sent(proxy)


# Two policies, one of a class of its own, and two again. What is read of the shared cache travels with the limits; a first
# answer is stored with a second command, for which nobody waits.
@pytest.mark.parametrize("path", ["/v1/entities", "/v1/finance/summary", "/v1/reference/accounts"])
async def test_a_protected_get_is_one_command_however_many_policies_apply(
    member: Member, proxy: Proxy, path: str
) -> None:
    async with asyncio.timeout(20):
        while _sent(proxy) != ["EVALSHA"]:  # the first answers are stored, whenever that is done
            await member.get(path, entity_type="CUSTOMER")
            await asyncio.sleep(0.1)
    for _ in range(3):
        _sent(proxy)
        answer = await member.get(path, entity_type="CUSTOMER")
        assert answer.headers["ratelimit-policy"]
        assert _sent(proxy) == ["EVALSHA"]


async def test_a_miss_costs_one_more_to_store_it(member: Member, proxy: Proxy) -> None:
    _sent(proxy)
    assert (await member.get("/v1/finance/summary")).headers["cache-status"] == "b1; fwd=uri-miss; stored"
    assert await _all_sent(proxy, 2) == ["EVALSHA"] * 2


async def test_a_keyed_mutation_is_four_commands_at_most_and_its_replay_two(member: Member, proxy: Proxy) -> None:
    """Limits, claim, what it makes stale, record; the replay has the limits and the claim."""
    _sent(proxy)
    first = await member.post("/v1/finance/expenses", EXPENSE, key="one")
    assert first.status_code == 201
    assert sorted(await _all_sent(proxy, 4)) == ["EVAL", "EVALSHA", "EVALSHA", "EVALSHA"]
    again = await member.post("/v1/finance/expenses", EXPENSE, key="one")
    assert again.headers["idempotent-replayed"] == "true"
    assert _sent(proxy) == ["EVALSHA"] * 2
