"""A principal is looked up once per token and organisation, and again after a change."""

import asyncio

import pytest

from b1.cache import L1
from b1.clock import ManualClock
from b1.errors import Forbidden
from b1.identity import Credentials, Identity, InvalidToken, Tokens
from b1.settings import Secret
from b1.types import Principal


class Resolver:
    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.role = "MEMBER"
        self.gate: asyncio.Event | None = None

    async def __call__(self, credentials: Credentials) -> Principal:
        self.asked.append(credentials.organization)
        role = self.role
        if self.gate is not None:
            await self.gate.wait()
        if credentials.organization == "999":
            raise Forbidden
        return Principal(credentials.subject, credentials.organization or "1", role)


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


@pytest.fixture
def tokens(clock: ManualClock) -> Tokens:
    return Tokens(Secret("s" * 32), clock)


@pytest.fixture
def identity(clock: ManualClock, resolver: Resolver, tokens: Tokens) -> Identity:
    return Identity(tokens.verify, resolver, L1(100_000, clock), clock, ttl_s=300)


def bearer(tokens: Tokens, actor: str = "7", ttl_s: int = 3600) -> bytes:
    return b"Bearer " + tokens.issue(actor, ttl_s=ttl_s).encode()


async def test_the_resolver_is_asked_once_per_token_and_organisation(
    identity: Identity, resolver: Resolver, tokens: Tokens
) -> None:
    token = bearer(tokens)
    for organization in (None, b"1", None, b"1", b"2"):
        await identity.authenticate(token, organization)
    assert resolver.asked == [None, "1", "2"]


async def test_after_five_minutes_it_is_asked_again(
    identity: Identity, resolver: Resolver, tokens: Tokens, clock: ManualClock
) -> None:
    token = bearer(tokens)
    await identity.authenticate(token, None)
    clock.advance(301)
    await identity.authenticate(token, None)
    assert len(resolver.asked) == 2


async def test_a_cached_principal_ends_with_its_token(identity: Identity, tokens: Tokens, clock: ManualClock) -> None:
    token = bearer(tokens, ttl_s=60)
    await identity.authenticate(token, None)
    clock.advance(66)
    with pytest.raises(InvalidToken):
        await identity.authenticate(token, None)


async def test_forgetting_an_actor_shows_the_new_role(identity: Identity, resolver: Resolver, tokens: Tokens) -> None:
    token = bearer(tokens)
    await identity.authenticate(token, None)
    resolver.role = "MANAGER"
    identity.forget("7")
    assert (await identity.authenticate(token, None)).role == "MANAGER"


async def test_a_change_during_the_look_up_is_not_missed(
    identity: Identity, resolver: Resolver, tokens: Tokens
) -> None:
    token = bearer(tokens)
    resolver.gate = asyncio.Event()
    first = asyncio.create_task(identity.authenticate(token, None))
    await asyncio.sleep(0)
    resolver.role = "MANAGER"
    identity.forget("7")
    resolver.gate.set()
    assert (await first).role == "MEMBER"
    assert (await identity.authenticate(token, None)).role == "MANAGER"


async def test_a_refusal_is_not_remembered_as_a_principal(identity: Identity, tokens: Tokens) -> None:
    for _ in range(2):
        with pytest.raises(Forbidden):
            await identity.authenticate(bearer(tokens), b"999")


@pytest.mark.parametrize("header", [b"", b"Basic dXNlcjpwYXNz", b"Bearer", b"Bearer \xff", b"bearer x.y.z"])
async def test_what_is_no_bearer_token_is_refused(identity: Identity, header: bytes) -> None:
    with pytest.raises(InvalidToken):
        await identity.authenticate(header, None)


async def test_what_is_known_ends_at_the_very_second_at_which_the_token_does(
    identity: Identity, tokens: Tokens, clock: ManualClock
) -> None:
    key = identity.key_of(token := bearer(tokens, ttl_s=60), None)
    principal = await identity.authenticate(token, None)
    assert identity.known_as(key) is identity.known_as(key) is principal
    clock.advance(59.5)
    assert identity.known_as(key) is principal
    clock.advance(0.5)
    assert identity.known_as(key) is None


async def test_whoever_called_last_is_forgotten_like_all_others(
    identity: Identity, resolver: Resolver, tokens: Tokens
) -> None:
    key = identity.key_of(token := bearer(tokens), None)
    before = await identity.authenticate(token, None)
    assert identity.known_as(key) is before
    identity.forget("7")
    assert identity.known_as(key) is None
    resolver.role = "MANAGER"
    after = await identity.authenticate(token, None)
    assert identity.known_as(key) is after
    assert after.role == "MANAGER"


async def test_a_look_up_during_which_the_actor_was_forgotten_is_not_known(
    identity: Identity, resolver: Resolver, tokens: Tokens
) -> None:
    key = identity.key_of(token := bearer(tokens), None)
    await identity.authenticate(token, None)
    identity.forget("7")
    resolver.gate = asyncio.Event()
    looked = asyncio.create_task(identity.authenticate(token, None))
    await asyncio.sleep(0)
    identity.forget("7")
    resolver.gate.set()
    await looked
    assert identity.known_as(key) is None


async def test_those_who_called_last_are_a_bounded_number(clock: ManualClock, tokens: Tokens) -> None:
    identity = Identity(tokens.verify, Resolver(), L1(10_000_000, clock), clock, ttl_s=300)
    for number in range(1200):
        token = bearer(tokens, str(number))
        await identity.authenticate(token, None)
        assert identity.known(token, None) is not None
    assert len(identity._near) <= 512
