"""Tokens over HTTP: who calls, what a bad token costs and whom, and that strangers pass as nobody."""

from __future__ import annotations

import pytest

from b1.asgi.context import RequestContext
from b1.asgi.limits import Limits, policies_by_method
from b1.asgi.middleware.identity import IdentityLayer
from b1.cache import L1
from b1.clock import ManualClock
from b1.errors import DatabaseUnavailable, Forbidden
from b1.identity import Credentials, Identity, Tokens
from b1.limiter import Caller, Limiter, Policy, PolicyTable
from b1.metrics import Metrics
from b1.settings import Secret
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness
from b1.types import Principal
from b1.units import MIB
from tests.asgi.raw import App, Reply, bearer, call, inside

ADDRESS = "203.0.113.9"
TABLE = PolicyTable((Policy("public", 2, 60, scope="address"), Policy("read", 5, 60)))


class World:
    """The layer with a resolver that knows organisation 1 and nobody else."""

    def __init__(self, *, limited: bool = True, fails: Exception | None = None) -> None:
        self.clock: ManualClock = StoreHarness.clock_at_start()
        self.tokens = Tokens(Secret("a test secret of 32 characters!!"), self.clock)
        self.limiter = Limiter(MemoryStore(MIB, self.clock), TABLE)
        limits = Limits(self.limiter, Metrics(), default=policies_by_method, upgrade_url="/plans")
        identity = Identity(self.tokens.verify, self._resolve, L1(MIB, self.clock), self.clock, ttl_s=300)
        self.app = App()
        self.contexts: list[RequestContext] = []
        self.fails = fails
        self.resolved: list[str | None] = []
        self.layer = inside(
            IdentityLayer(self.app, identity=identity, limits=limits if limited else None),
            client=ADDRESS,
            contexts=self.contexts,
        )

    async def _resolve(self, credentials: Credentials) -> Principal:
        self.resolved.append(credentials.organization)
        if self.fails is not None:
            raise self.fails
        if credentials.organization not in (None, "1"):
            raise Forbidden
        return Principal(credentials.subject, credentials.organization)

    async def call(self, *headers: tuple[bytes, bytes]) -> Reply:
        return await call(self.layer, headers=headers)

    def token(self, actor: str = "ann") -> tuple[bytes, bytes]:
        return bearer(self.tokens.issue(actor, ttl_s=600))

    async def spent(self) -> int:
        decision = await self.limiter.check(("public",), Caller(ADDRESS), commit=False)
        return decision.states[0].used


async def test_without_a_token_the_caller_is_nobody_and_passes() -> None:
    world = World()
    assert (await world.call()).status == 200
    assert (world.contexts[0].principal, await world.spent()) == (None, 0)


async def test_a_good_token_is_somebody() -> None:
    world = World()
    assert (await world.call(world.token(), (b"x-organization-id", b"1"))).status == 200
    assert world.contexts[0].principal == Principal("ann", "1")
    assert await world.spent() == 0


async def test_the_resolver_is_asked_once_per_token_and_organisation() -> None:
    world = World()
    token = world.token()
    for headers in ([token], [token], [token, (b"x-organization-id", b"1")], [token, (b"x-organization-id", b"1")]):
        await world.call(*headers)
    assert world.resolved == [None, "1"]


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer ", b"Bearer \xff", b"Basic abc", b"nonsense", b"Bearer a b"]
)
async def test_a_header_that_is_no_good_token_is_401(value: bytes) -> None:
    world = World()
    reply = await world.call((b"authorization", value))
    assert (reply.status, reply.code, world.app.runs) == (401, "INVALID_TOKEN", 0)
    assert reply.headers["www-authenticate"].startswith("Bearer")


class TestWhatABadTokenCosts:
    async def test_its_address_and_after_a_while_that_is_refused(self) -> None:
        world = World()
        replies = [await world.call(bearer("forged")) for _ in range(3)]
        assert [(401, "INVALID_TOKEN")] * 2 + [(429, "RATE_LIMIT_EXCEEDED")] == [
            (reply.status, reply.code) for reply in replies
        ]
        assert int(replies[-1].headers["retry-after"]) >= 1

    async def test_a_neighbour_with_a_good_token_is_not_harmed(self) -> None:
        world = World()
        for _ in range(5):
            await world.call(bearer("forged"))
        assert (await world.call(world.token())).status == 200

    async def test_a_foreign_organisation_costs_the_same(self) -> None:
        world = World()
        foreign = (b"x-organization-id", b"2")
        replies = [await world.call(world.token(), foreign) for _ in range(3)]
        assert [403, 403, 429] == [reply.status for reply in replies]

    async def test_nothing_where_limits_are_off(self) -> None:
        world = World(limited=False)
        assert {401} == {(await world.call(bearer("forged"))).status for _ in range(10)}

    async def test_nothing_when_it_is_the_database_that_cannot_say(self) -> None:
        world = World(fails=DatabaseUnavailable())
        replies = [await world.call(world.token()) for _ in range(5)]
        assert {(503, "DB_UNAVAILABLE", "2")} == {
            (reply.status, reply.code, reply.headers["retry-after"]) for reply in replies
        }
        assert await world.spent() == 0


async def test_a_token_is_believed_no_longer_than_it_says() -> None:
    world = World()
    token = bearer(world.tokens.issue("ann", ttl_s=60))
    assert (await world.call(token)).status == 200
    world.clock.advance(70)
    assert (await world.call(token)).status == 401
