"""How many commands a request of the running application sends to Redis, counted by a proxy in between."""

from __future__ import annotations

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


# Two policies, one of a class of its own, and two again.
@pytest.mark.parametrize("path", ["/v1/entities", "/v1/finance/summary", "/v1/reference/accounts"])
async def test_a_protected_get_is_one_command_however_many_policies_apply(
    member: Member, proxy: Proxy, path: str
) -> None:
    for _ in range(3):
        _sent(proxy)
        answer = await member.get(path, entity_type="CUSTOMER")
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"]
        assert _sent(proxy) == ["EVALSHA"]


async def test_a_keyed_mutation_is_three_commands_at_most_and_its_replay_two(member: Member, proxy: Proxy) -> None:
    _sent(proxy)
    first = await member.post("/v1/finance/expenses", EXPENSE, key="one")
    assert first.status_code == 201
    assert _sent(proxy) == ["EVALSHA"] * 3
    again = await member.post("/v1/finance/expenses", EXPENSE, key="one")
    assert again.headers["idempotent-replayed"] == "true"
    assert _sent(proxy) == ["EVALSHA"] * 2
